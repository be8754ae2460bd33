"""What every Python program here shares: where the brokers are, names of one's own, and plain checks."""

import os
import threading
from urllib.parse import urlsplit

URLS = os.environ["AMQP_URLS"].split(",")


def url(node=0):
    """The AMQP URL of a node, counted round the list."""
    return URLS[node % len(URLS)]


def host_and_port(node=0):
    parts = urlsplit(url(node))
    return parts.hostname, parts.port


def name(label):
    """A name that no other run uses."""
    return "interop.%s.%s" % (os.environ["RUN_ID"], label)


def check(condition, what):
    if not condition:
        raise SystemExit("FAILED: %s" % (what,))


def equal(actual, expected, what):
    check(actual == expected, "%s: expected %r, got %r" % (what, expected, actual))


def give_up_after(seconds):
    """Ends the program if it hangs, whatever it waits for."""

    def end():
        print("FAILED: nothing happened for %s s" % seconds, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
