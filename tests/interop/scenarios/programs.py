"""Runs the tutorials' programs as a user would, in terminals of their own, and reads what they print."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pika

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))
from common import URLS, check, equal, give_up_after, name, url  # noqa: E402,F401

TUTORIALS = Path(__file__).resolve().parent.parent / "tutorials"
PATIENCE = 30
_running = []


class Program:
    """A tutorial program connected to the node of that number."""

    def __init__(self, script=None, *arguments, node=0, command=None):
        at = node % len(URLS)
        environment = dict(os.environ, AMQP_URLS=",".join(URLS[at:] + URLS[:at]))
        command = command or [sys.executable, str(TUTORIALS / script), *arguments]
        self.script = script or command[0]
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = queue.Queue()
        self.seen = []
        self.printed = []
        threading.Thread(target=self._read, daemon=True).start()
        _running.append(self)

    def _read(self):
        for line in self.process.stdout:
            self.printed.append(line.rstrip("\n"))
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def line(self, within=PATIENCE):
        """The next line it prints, None at its end."""
        try:
            line = self.lines.get(timeout=within)
        except queue.Empty:
            check(False, "%s printed nothing for %s s after %r" % (self.script, within, self.seen))
        self.seen.append(line)
        return line

    def expect(self, pattern, within=PATIENCE):
        """Waits for a line that matches, past others."""
        while True:
            line = self.line(within)
            check(line is not None, "%s ended without printing %r: %r" % (self.script, pattern, self.seen))
            if re.search(pattern, line):
                return line

    def interrupt(self):
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=PATIENCE)

    def finish(self):
        """Waits for its end, which must be a success."""
        status = self.process.wait(timeout=PATIENCE)
        while self.line() is not None:
            pass
        equal(status, 0, "exit status of %s, which printed %r" % (self.script, self.seen))


def run(script, *arguments, node=0):
    Program(script, *arguments, node=node).finish()


def node_command(action, node):
    """Kills or starts the node of that number, and waits until that is done."""
    host_and_port = URLS[node % len(URLS)].split("@")[1].split("/")[0]
    number = os.environ["WARREN_TEST_AMQP"].split(",").index(host_and_port) + 1
    done = subprocess.run(
        [*os.environ["WARREN_TEST_NODES"].split(), action, str(number)], capture_output=True, text=True, timeout=60
    )
    equal(done.returncode, 0, "%s node %d: %s" % (action, number, done.stdout + done.stderr))


def until(what, condition):
    """Polls for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        check(time.monotonic() < deadline, what)
        time.sleep(0.02)


class Scenario:
    """A connection to look with; the named queues and exchanges are removed before and after."""

    def __init__(self, queues=(), exchanges=()):
        self.queues, self.exchanges = queues, exchanges

    def __enter__(self):
        give_up_after(100)
        self.connection = pika.BlockingConnection(pika.URLParameters(url(0)))
        self.channel = self.connection.channel()
        self.clean()
        return self

    def clean(self):
        for queue_name in self.queues:
            self.channel.queue_delete(queue_name)
        for exchange in self.exchanges:
            self.channel.exchange_delete(exchange)

    def __exit__(self, kind, error, trace):
        for program in _running:
            if program.process.poll() is None:
                program.process.kill()
                program.process.wait()
        if error is not None:
            for program in _running:
                print("%s printed %r" % (program.script, program.seen))
        self.clean()
        self.connection.close()

    def counts(self, queue_name):
        """Ready messages and consumers."""
        answer = self.channel.queue_declare(queue_name, passive=True).method
        return answer.message_count, answer.consumer_count

    def until_counts(self, queue_name, messages, consumers):
        until(
            "%s has %d messages and %d consumers" % (queue_name, messages, consumers),
            lambda: self.counts(queue_name) == (messages, consumers),
        )
