#!/usr/bin/env python3
"""Partitions under load; see run.sh.

Checked in each configuration, after the last partition has healed and everything was consumed:
- every confirmed message was delivered;
- nothing was delivered that was not published;
- a message that was delivered twice says so: of each, at most one delivery is not marked as redelivered;
- a message that died of old age came out at the other end once, with its history;
- every node answers, and no node has stopped.
"""

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pika
from pika.exceptions import AMQPError, NackError

NODES = 5
NET = "10.211.7"
BRIDGE = "wchaos"
USER, PASSWORD = "chaos", "chaos"
READY_S = 60
# How long the cluster may take to be itself again, and to hand out what it holds.
HEAL_S = 120
# Dead-lettered messages are this old.
TTL_MS = 1_000


class Configuration(NamedTuple):
    """One row of the table."""

    partition: str
    consumers: str
    replicas: int
    dead_letters: bool


# Every kind of partition with every kind of consumer, both sizes of a group, with and without dead-lettering.
CONFIGURATIONS = [
    Configuration("random-halves", "asynchronous", 3, False),
    Configuration("random-halves", "mixed", 5, False),
    Configuration("random-halves", "polling", 5, True),
    Configuration("halves", "asynchronous", 5, False),
    Configuration("halves", "polling", 3, False),
    Configuration("halves", "mixed", 5, True),
    Configuration("majorities-ring", "asynchronous", 5, False),
    Configuration("majorities-ring", "polling", 5, False),
    Configuration("majorities-ring", "mixed", 3, True),
    Configuration("single-node", "asynchronous", 3, False),
    Configuration("single-node", "polling", 5, False),
    Configuration("single-node", "mixed", 3, True),
    Configuration("one-way", "mixed", 3, False),
    Configuration("one-way", "asynchronous", 5, True),
]


def sh(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def address(node):
    return f"{NET}.{node}"


class Cluster:
    """Five namespaces on one bridge, a node in each."""

    def __init__(self, directory):
        self.directory = directory
        self.bin = Path(os.environ["WARREN_BIN"])
        self.processes = {}

    def space(self, node):
        return f"{BRIDGE}{node}"

    def inside(self, node, *command):
        return ["ip", "netns", "exec", self.space(node), *map(str, command)]

    def wire(self):
        self.unwire()
        sh("ip", "link", "add", BRIDGE, "type", "bridge")
        sh("ip", "address", "add", f"{NET}.254/24", "dev", BRIDGE)
        sh("ip", "link", "set", BRIDGE, "up")
        for node in range(1, NODES + 1):
            space, end = self.space(node), f"{BRIDGE}v{node}"
            sh("ip", "netns", "add", space)
            sh("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", space)
            sh("ip", "link", "set", end, "master", BRIDGE, "up")
            sh(*self.inside(node, "ip", "address", "add", f"{address(node)}/24", "dev", "eth0"))
            sh(*self.inside(node, "ip", "link", "set", "eth0", "up"))
            sh(*self.inside(node, "ip", "link", "set", "lo", "up"))

    def unwire(self):
        for node in range(1, NODES + 1):
            subprocess.run(["ip", "netns", "delete", self.space(node)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)

    def config(self, node):
        return self.directory / f"node{node}.toml"

    def up(self):
        seeds = ", ".join(f'"n{node}={address(node)}:7101"' for node in range(1, NODES + 1))
        (self.directory / "secret").write_text(os.urandom(32).hex())
        (self.directory / "secret").chmod(0o600)
        for node in range(1, NODES + 1):
            self.config(node).write_text(
                f'[node]\nname = "n{node}"\ndata_dir = "{self.directory}/data{node}"\n'
                f'[cluster]\nlisten = "{address(node)}:7101"\nseeds = [{seeds}]\nsecret_file = "{self.directory}/secret"\n'
                f'[amqp]\nlisten = ["{address(node)}:5672"]\n'
            )
            log = (self.directory / f"node{node}.log").open("a")
            command = self.inside(node, self.bin / "warren", "--config", self.config(node))
            self.processes[node] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        for node in range(1, NODES + 1):
            await_(lambda node=node: self.answers(node), READY_S, f"node {node} does not start")
        self.ctl(1, "add_user", USER, PASSWORD)
        self.ctl(1, "set_permissions", USER, ".*", ".*", ".*")

    def ctl(self, node, *arguments):
        return sh(*self.inside(node, self.bin / "warrenctl", "--config", self.config(node), "-q", *arguments))

    def answers(self, node):
        try:
            self.ctl(node, "-t", "2", "await_startup")
        except subprocess.CalledProcessError:
            return False
        return True

    def down(self):
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for node, process in self.processes.items():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                print(f"   node {node} did not end, and is killed")
                process.kill()

    def dead(self):
        return [node for node, process in self.processes.items() if process.poll() is not None]

    def block(self, sender, receiver):
        """What `sender` says does not reach `receiver`."""
        sh(*self.inside(receiver, "iptables", "-w", "-A", "INPUT", "-s", address(sender), "-j", "DROP"))

    def hears(self, receiver, sender):
        ping = self.inside(receiver, "ping", "-c", "1", "-W", "0.3", address(sender))
        return subprocess.run(ping, capture_output=True, check=False).returncode == 0

    def heal(self):
        for node in range(1, NODES + 1):
            sh(*self.inside(node, "iptables", "-w", "-F", "INPUT"))

    def check_filters(self):
        """That what is cut is cut, and what is healed is healed."""
        whole = self.hears(1, 2)
        self.block(2, 1)
        cut = not self.hears(1, 2)
        self.heal()
        if not (whole and cut and self.hears(1, 2)):
            raise Failure("packet filters do not cut nodes off from each other here")

    def partition(self, kind, chance):
        """Answers what was cut, in words."""
        nodes = list(range(1, NODES + 1))
        if kind in ("halves", "random-halves"):
            if kind == "random-halves":
                chance.shuffle(nodes)
            few, many = nodes[: NODES // 2], nodes[NODES // 2 :]
            return self.cut(few, many)
        if kind == "single-node":
            alone = chance.choice(nodes)
            return self.cut([alone], [node for node in nodes if node != alone])
        if kind == "one-way":
            deaf = chance.choice(nodes)
            for node in nodes:
                if node != deaf:
                    self.block(node, deaf)
            return f"{deaf} hears nobody"
        # Each node sees a majority, and no two the same one.
        chance.shuffle(nodes)
        for index, node in enumerate(nodes):
            seen = {nodes[(index + step) % NODES] for step in (-1, 0, 1)}
            for other in nodes:
                if other not in seen:
                    self.block(other, node)
        return f"ring {nodes}"

    def cut(self, some, others):
        for one, other in itertools.product(some, others):
            self.block(one, other)
            self.block(other, one)
        return f"{sorted(some)} | {sorted(others)}"


def await_(condition, within_s, otherwise):
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            raise Failure(otherwise)
        time.sleep(0.1)


class Failure(Exception):
    """What a configuration found."""


def connect(node):
    parameters = pika.ConnectionParameters(
        address(node), 5672, credentials=pika.PlainCredentials(USER, PASSWORD), heartbeat=30,
        blocked_connection_timeout=60, socket_timeout=10,
    )
    return pika.BlockingConnection(parameters)


class Client(threading.Thread):
    """Connects again whenever its connection fails, until it is told to stop."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node, self.stop, self.faults = node, threading.Event(), Counter()

    def run(self):
        while not self.stop.is_set():
            try:
                connection = connect(self.node)
                try:
                    self.work(connection)
                finally:
                    with contextlib.suppress(Exception):
                        connection.close()
            except (AMQPError, OSError) as error:
                self.faults[type(error).__name__] += 1
                self.stop.wait(0.5)

    def work(self, connection):
        raise NotImplementedError


class Publisher(Client):
    """Publishes numbered messages, and waits for each confirm."""

    def __init__(self, node, queue, name):
        super().__init__(node)
        self.queue, self.name_, self.next = queue, name, 0
        self.attempted, self.confirmed = set(), set()
        self.confirmed_at, self.pause_s = time.monotonic(), 0.0

    def work(self, connection):
        channel = connection.channel()
        channel.confirm_delivery()
        while not self.stop.is_set():
            value = f"{self.name_}-{self.next}"
            self.next += 1
            self.attempted.add(value)
            try:
                channel.basic_publish("", self.queue, value.encode(), pika.BasicProperties(delivery_mode=2), mandatory=True)
            except NackError:
                self.faults["nack"] += 1
                continue
            self.confirmed.add(value)
            now = time.monotonic()
            self.pause_s = max(self.pause_s, now - self.confirmed_at)
            self.confirmed_at = now
            self.stop.wait(0.005)


class Consumer(Client):
    """Keeps what it gets; acknowledges it."""

    def __init__(self, node, queue, polling, dead_letters):
        super().__init__(node)
        self.queue, self.polling, self.dead_letters = queue, polling, dead_letters
        self.got, self.bad = [], []

    def work(self, connection):
        channel = connection.channel()
        if self.polling:
            while not self.stop.is_set():
                method, properties, body = channel.basic_get(self.queue)
                if method is None:
                    self.stop.wait(0.05)
                else:
                    self.take(channel, method, properties, body)
            return
        channel.basic_qos(prefetch_count=20)
        for method, properties, body in channel.consume(self.queue, inactivity_timeout=0.2):
            if method is not None:
                self.take(channel, method, properties, body)
            if self.stop.is_set():
                return

    def take(self, channel, method, properties, body):
        self.got.append((body.decode(), method.redelivered))
        if self.dead_letters:
            history = (properties.headers or {}).get("x-death") or [{}]
            if history[0].get("reason") != "expired" or history[0].get("count") != 1:
                self.bad.append((body.decode(), history))
        channel.basic_ack(method.delivery_tag)


def declare(configuration, number):
    """The queue to publish to, and the one to consume from."""
    size = {"x-queue-type": "quorum", "x-quorum-initial-group-size": configuration.replicas}
    source, target = f"chaos-{number}", f"chaos-{number}"
    arguments = dict(size)
    connection = connect(1)
    channel = connection.channel()
    if configuration.dead_letters:
        target = f"chaos-{number}-dead"
        channel.queue_declare(target, durable=True, arguments=dict(size))
        arguments |= {
            "x-message-ttl": TTL_MS, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": target,
            "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
        }
    channel.queue_declare(source, durable=True, arguments=arguments)
    connection.close()
    return source, target


def depth(queue):
    connection = connect(1)
    try:
        return connection.channel().queue_declare(queue, passive=True).method.message_count
    finally:
        connection.close()


def check(publishers, consumers, configuration):
    attempted = set().union(*(publisher.attempted for publisher in publishers))
    confirmed = set().union(*(publisher.confirmed for publisher in publishers))
    got = [delivery for consumer in consumers for delivery in consumer.got]
    values = {value for value, _ in got}
    found = []
    if lost := confirmed - values:
        found.append(f"{len(lost)} confirmed messages were lost, such as {sorted(lost)[:5]}")
    if invented := values - attempted:
        found.append(f"{len(invented)} messages came that nobody published, such as {sorted(invented)[:5]}")
    fresh = Counter(value for value, redelivered in got if not redelivered)
    if twice := [value for value, count in fresh.items() if count > 1]:
        found.append(f"{len(twice)} messages came twice and did not say so, such as {twice[:5]}")
    if bad := [delivery for consumer in consumers for delivery in consumer.bad]:
        found.append(f"{len(bad)} dead letters have another history, such as {bad[0]}")
    if len(confirmed) < 100:
        found.append(f"only {len(confirmed)} messages were confirmed: that shows nothing")
    pauses = ", ".join(f"{publisher.pause_s:.1f}" for publisher in publishers)
    print(f"   longest pause of each publisher: {pauses} s")
    print(
        f"   {len(attempted)} published, {len(confirmed)} confirmed, {len(values)} delivered, "
        f"{sum(redelivered for _, redelivered in got)} redelivered"
    )
    if found:
        raise Failure("; ".join(found))


def run(cluster, number, configuration, options, chance):
    source, target = declare(configuration, number)
    nodes = range(1, NODES + 1)
    publishers = [Publisher(node, source, f"p{node}") for node in nodes]
    polling = {"asynchronous": [False] * NODES, "polling": [True] * NODES, "mixed": [node % 2 == 0 for node in nodes]}
    consumers = [
        Consumer(node, target, polls, configuration.dead_letters) for node, polls in zip(nodes, polling[configuration.consumers])
    ]
    for client in publishers + consumers:
        client.start()
    ends = time.monotonic() + options.seconds
    try:
        while time.monotonic() < ends:
            time.sleep(options.partition_s)
            print("   partition:", cluster.partition(configuration.partition, chance))
            time.sleep(options.partition_s)
            cluster.heal()
    finally:
        cluster.heal()
    for publisher in publishers:
        publisher.stop.set()
    for publisher in publishers:
        publisher.join(HEAL_S)
        if publisher.is_alive():
            raise Failure(f"a publisher on node {publisher.node} is stuck")
    confirmed = set().union(*(publisher.confirmed for publisher in publishers))

    def everything_came():
        values = {value for consumer in consumers for value, _ in list(consumer.got)}
        try:
            return confirmed <= values and depth(source) == 0 and depth(target) == 0
        except (AMQPError, OSError):
            return False

    until = time.monotonic() + HEAL_S
    while not everything_came() and time.monotonic() < until:
        time.sleep(0.5)
    for consumer in consumers:
        consumer.stop.set()
    for consumer in consumers:
        consumer.join(HEAL_S)
    faults = sum((client.faults for client in publishers + consumers), Counter())
    print("   clients saw:", dict(faults) or "no fault")
    check(publishers, consumers, configuration)
    if dead := cluster.dead():
        raise Failure(f"nodes ended: {dead}")
    for node in nodes:
        await_(lambda node=node: cluster.answers(node), READY_S, f"node {node} does not answer")


def chosen(text):
    numbers = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    if not numbers <= set(range(1, len(CONFIGURATIONS) + 1)):
        raise argparse.ArgumentTypeError(f"there are configurations 1 to {len(CONFIGURATIONS)}")
    return sorted(numbers)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--configurations", type=chosen, default=[2, 6, 12])
    parser.add_argument("--partition-s", type=float, default=5)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    if options.list:
        for number, configuration in enumerate(CONFIGURATIONS, 1):
            print(number, *configuration)
        return 0
    sys.stdout.reconfigure(line_buffering=True)
    print(f"seed {options.seed}")
    directory = Path(tempfile.mkdtemp(prefix="warren-chaos."))
    cluster = Cluster(directory)
    passed = failed = 0
    try:
        cluster.wire()
        cluster.up()
        for number in options.configurations:
            configuration = CONFIGURATIONS[number - 1]
            print(f"{number}:", *configuration)
            try:
                if number == options.configurations[0]:
                    cluster.check_filters()
                run(cluster, number, configuration, options, random.Random(options.seed + number))
                passed += 1
            except Failure as failure:
                failed += 1
                print("   FAILED:", failure)
    finally:
        cluster.down()
        cluster.unwire()
        if options.keep or failed:
            kept = options.keep or Path(tempfile.gettempdir()) / "warren-chaos-logs"
            kept.mkdir(parents=True, exist_ok=True)
            for log in directory.glob("*.log"):
                shutil.copy(log, kept)
            print(f"logs: {kept}")
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
