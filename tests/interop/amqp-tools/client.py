"""The Debian command-line tools: declare, publish, get, consume with a command, delete."""

import os
import subprocess
import time
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))
from common import URLS, equal, name  # noqa: E402


def tool(tool_name, *arguments, node=0, text=None, status=0):
    command = [tool_name, "--url=" + URLS[node % len(URLS)], *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30)
    equal(done.returncode, status, "exit status of %s (%s)" % (" ".join(command), done.stderr.strip()))
    return done.stdout


queue = name("tools")
equal(tool("amqp-declare-queue", "-d", "-q", queue).strip(), queue, "the declared queue")
tool("amqp-publish", "-r", queue, "-p", "-C", "text/plain", "-b", "first", node=1)
tool("amqp-publish", "-r", queue, "-p", "-l", text="second\nthird\n")
equal(tool("amqp-get", "-q", queue, node=1), "first", "amqp-get")
out = tool("amqp-consume", "-q", queue, "-c", "2", "-p", "1", "--", "sh", "-c", "printf '<'; cat; printf '>'", node=2)
equal(out.replace("\n", ""), "<second><third>", "amqp-consume")
tool("amqp-get", "-q", queue, status=2)

# A temporary queue of the tool's own on a topic exchange.
consumer = subprocess.Popen(
    ["amqp-consume", "--url=" + URLS[0], "-e", "amq.topic", "-r", queue + ".#", "-A", "-c", "1", "cat"],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
)
# It tells the queue's name before it binds it, and nothing when it has: so publish until one message got through.
line = consumer.stderr.readline()
assert "amq.gen-" in line, line
deadline = time.monotonic() + 30
while True:
    tool("amqp-publish", "-e", "amq.topic", "-r", queue + ".event", "-b", "by topic", node=1)
    try:
        out = consumer.communicate(timeout=0.2)[0]
        break
    except subprocess.TimeoutExpired:
        assert time.monotonic() < deadline, "nothing came through the topic exchange"
equal(out, "by topic", "through the topic exchange")
equal(consumer.returncode, 0, "exit status of amqp-consume")

equal(tool("amqp-delete-queue", "-q", queue).strip(), "0", "messages left")
