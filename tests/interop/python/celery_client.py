"""Celery with a real worker: results over rpc://, errors, retries, times, groups, chains, events, ping and inspect."""

import datetime
import os
import signal
import subprocess
import sys
import threading
import time

from celery import chain, group

from celery_tasks import add, app, fail, flaky, total
from common import check, equal, give_up_after, name

give_up_after(100)
node = "worker@%s" % os.environ["RUN_ID"]
log = open("worker.log", "w+")
worker = subprocess.Popen(
    [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", "-n", node, "-c", "2", "-E", "-l", "INFO"],
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

    heard = {}
    listening = threading.Event()

    def listen():
        with app.connection_for_read() as connection:
            def hear(event):
                heard.setdefault(event.get("uuid"), []).append(event["type"])

            receiver = app.events.Receiver(connection, handlers={"*": hear})
            with receiver.consumer_context() as (own, _, _):
                listening.set()
                while True:
                    try:
                        own.drain_events(timeout=1)
                    except TimeoutError:
                        pass

    threading.Thread(target=listen, daemon=True).start()
    check(listening.wait(20), "events are listened to")
    due = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1)
    later = add.apply_async((6, 7), eta=due)
    equal(later.get(timeout=20), 13, "a task with a time")
    check(datetime.datetime.now(datetime.timezone.utc) >= due, "it is not early")
    expected = ["task-received", "task-started", "task-succeeded"]
    deadline = time.monotonic() + 20
    while heard.get(later.id) != expected:
        check(time.monotonic() < deadline, "its events: %r" % heard)
        time.sleep(0.05)
    late = add.apply_async((1, 1), countdown=600)
    inspect = app.control.inspect(destination=[node], timeout=5)
    deadline = time.monotonic() + 20
    while late.id not in [task["request"]["id"] for task in inspect.scheduled()[node]]:
        check(time.monotonic() < deadline, "the task that waits for its time")
    app.control.revoke(late.id)
    deadline = time.monotonic() + 20
    while late.id not in inspect.revoked()[node]:
        check(time.monotonic() < deadline, "the revoked task")

    inspect = app.control.inspect(destination=[node], timeout=5)
    equal(inspect.ping(), {node: {"ok": "pong"}}, "inspect ping")
    check("celery_tasks.add" in inspect.registered()[node], "the registered tasks")
    equal([queue["name"] for queue in inspect.active_queues()[node]], [name("celery.tasks")], "the worker's queues")
    stats = inspect.stats()[node]
    equal(stats["total"]["celery_tasks.flaky"], 3, "attempts counted by the worker")
    added = app.control.add_consumer(name("celery.more"), destination=[node], reply=True, timeout=5)
    check("ok" in added[0][node], added)
    equal(add.apply_async((1, 1), queue=name("celery.more")).get(timeout=20), 2, "a task through the other queue")

    with app.connection_for_write() as connection:
        connection.channel().queue_purge(name("celery.tasks"))
    worker.send_signal(signal.SIGTERM)
    equal(worker.wait(timeout=30), 0, "the worker's exit status")
    with app.connection_for_write() as connection:
        channel = connection.channel()
        # The worker held the task that waited for its time, and gave it back when it ended.
        for label, expected in (("celery.tasks", 1), ("celery.more", 0)):
            deadline = time.monotonic() + 20
            while channel.queue_declare(name(label), passive=True).message_count != expected:
                check(time.monotonic() < deadline, "%d tasks left in %s" % (expected, label))
            equal(channel.queue_delete(name(label)) or 0, expected, "tasks left in %s" % label)
            channel.exchange_delete(name(label))
except BaseException:
    log.seek(0)
    print(log.read()[-3000:])
    raise
finally:
    if worker.poll() is None:
        worker.kill()
        worker.wait()
