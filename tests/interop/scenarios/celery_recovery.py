"""Celery through the death of a worker, and of the node that worker, events and results go through: every task is done."""
import os
import signal
import subprocess
import sys
import tempfile

from programs import equal, give_up_after, name, node_command, until, URLS

# The node that is killed comes first for the workers and for this program.
os.environ["AMQP_URLS"] = ",".join(URLS[1:] + URLS[:1])
import common  # noqa: E402

common.URLS[:] = os.environ["AMQP_URLS"].split(",")
from celery_tasks import app, slow, stay  # noqa: E402

give_up_after(110)
logs = open("worker.log", "w+")
workers = []


def worker(label):
    command = [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", "-c", "2", "-l", "INFO", "-E"]
    node = "%s@%s" % (label, os.environ["RUN_ID"])
    process = subprocess.Popen([*command, "-n", node], stdout=logs, stderr=subprocess.STDOUT, start_new_session=True)
    workers.append(process)
    until("%s answers" % label, lambda: app.control.ping(destination=[node], timeout=1))
    return process, node


try:
    first, _ = worker("first")
    marker = os.path.join(tempfile.mkdtemp(), "begun")
    stays = stay.delay(marker)
    until("the task has begun", lambda: os.path.exists(marker))
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second, node = worker("second")
    equal(stays.get(timeout=40), "again", "what a dead worker had begun")

    before = [slow.delay(number) for number in range(40)]
    node_command("kill", 0)
    after = [slow.delay(number) for number in range(40, 60)]
    node_command("start", 0)
    # Results of before may have gone to the node that died; their tasks have not.
    equal([result.get(timeout=40) for result in after], list(range(40, 60)), "results after the node")
    until("the worker answers again", lambda: app.control.ping(destination=[node], timeout=1))

    def done():
        stats = app.control.inspect(destination=[node], timeout=5).stats()
        return stats and stats[node]["total"].get("celery_tasks.slow", 0) >= len(before) + len(after)

    until("every task is done", done)
    second.send_signal(signal.SIGTERM)
    equal(second.wait(timeout=30), 0, "the worker's exit status")
    with app.connection_for_write() as connection:
        channel = connection.channel()
        equal(channel.queue_delete(name("celery.tasks")) or 0, 0, "tasks left")
        channel.exchange_delete(name("celery.tasks"))
except BaseException:
    logs.seek(0)
    print(logs.read()[-3000:])
    raise
finally:
    for process in workers:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
