"""Celery with a real worker: results over rpc://, errors, retries, groups, chains, ping and inspect."""

import os
import signal
import subprocess
import sys
import time

from celery import chain, group

from celery_tasks import add, app, fail, flaky, total
from common import check, equal, give_up_after, name

give_up_after(100)
node = "worker@%s" % os.environ["RUN_ID"]
log = open("worker.log", "w+")
worker = subprocess.Popen(
    [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", "-n", node, "-c", "2", "-l", "INFO"],
    stdout=log,
    stderr=subprocess.STDOUT,
)
try:
    deadline = time.monotonic() + 60
    while not app.control.ping(destination=[node], timeout=1):
        check(worker.poll() is None and time.monotonic() < deadline, "the worker answers a ping")

    equal(add.delay(2, 3).get(timeout=20), 5, "a result")
    equal(add.apply_async((4, 5), priority=3).get(timeout=20), 9, "a result of a task with a priority")
    equal(flaky.delay().get(timeout=20), 2, "the third attempt")
    failed = fail.delay("on purpose")
    try:
        failed.get(timeout=20)
        check(False, "the task's error is raised here")
    except ValueError as error:
        equal(str(error), "on purpose", "the task's error")
    equal(failed.state, "FAILURE", "the state of the failed task")
    doubled = group(add.s(number, number) for number in range(20)).apply_async()
    equal(doubled.get(timeout=20), list(range(0, 40, 2)), "a group")
    equal(chain(add.s(1, 2), add.s(10))().get(timeout=20), 13, "a chain")
    equal(total.delay(list(range(100))).get(timeout=20), 4950, "a list as an argument")

    inspect = app.control.inspect(destination=[node], timeout=5)
    equal(inspect.ping(), {node: {"ok": "pong"}}, "inspect ping")
    check("celery_tasks.add" in inspect.registered()[node], "the registered tasks")
    equal([queue["name"] for queue in inspect.active_queues()[node]], [name("celery.tasks")], "the worker's queues")
    stats = inspect.stats()[node]
    equal(stats["total"]["celery_tasks.flaky"], 3, "attempts counted by the worker")
    added = app.control.add_consumer(name("celery.more"), destination=[node], reply=True, timeout=5)
    check("ok" in added[0][node], added)
    equal(add.apply_async((1, 1), queue=name("celery.more")).get(timeout=20), 2, "a task through the other queue")

    worker.send_signal(signal.SIGTERM)
    equal(worker.wait(timeout=30), 0, "the worker's exit status")
    with app.connection_for_write() as connection:
        channel = connection.channel()
        for label in ("celery.tasks", "celery.more"):
            left = channel.queue_delete(name(label))
            equal(left or 0, 0, "tasks left in %s" % label)
            channel.exchange_delete(name(label))
except BaseException:
    log.seek(0)
    print(log.read()[-3000:])
    raise
finally:
    if worker.poll() is None:
        worker.kill()
        worker.wait()
