"""The Celery application that the worker runs and the client calls."""

import os
import time

from celery import Celery
from kombu import Queue

from common import URLS, name

# One node after the other, in this order.
app = Celery("interop", broker=URLS, backend="rpc://")
app.conf.update(
    task_queues=[Queue(name("celery.tasks"), durable=True)],
    task_default_queue=name("celery.tasks"),
    task_acks_late=True,
    broker_connection_retry=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    task_serializer="json",
    result_expires=60,
)
attempts = {}


@app.task
def add(left, right):
    return left + right


@app.task
def fail(text):
    raise ValueError(text)


@app.task(bind=True, max_retries=3)
def flaky(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def slow(number):
    time.sleep(0.1)
    return number


@app.task(reject_on_worker_lost=True)
def stay(path):
    """Does not end the first time."""
    if os.path.exists(path):
        return "again"
    open(path, "w").close()
    time.sleep(600)
    return "never"
