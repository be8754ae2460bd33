"""The Celery application that the worker runs and the client calls."""

from celery import Celery
from kombu import Queue

from common import name, url

app = Celery("interop", broker=url(0), backend="rpc://")
app.conf.update(
    task_queues=[Queue(name("celery.tasks"), durable=True)],
    task_default_queue=name("celery.tasks"),
    task_acks_late=True,
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
