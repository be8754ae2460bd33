#!/usr/bin/env python3
"""The measurements of survival.sh, one for each call, on a cluster of three that runs; and the report of them all."""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pika

# A cluster that has not come back by then never will.
PATIENCE_S = 120
MESSAGE = b"m" * 1024
QUORUM = {"x-queue-type": "quorum"}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Cluster:
    """Three nodes: where they listen, who leads a queue, how one is killed and started."""

    def __init__(self, options):
        self.broker, self.base, self.pids = options.broker, options.base, list(options.pids)

    def connect(self, node):
        parameters = pika.ConnectionParameters("127.0.0.1", self.base + node, heartbeat=60)
        return pika.BlockingConnection(parameters)

    def ctl(self, *arguments):
        if self.broker == "warren":
            return subprocess.run([os.environ["CLUSTER"], "ctl", "-q", *arguments], check=True, capture_output=True, text=True).stdout
        return subprocess.run(["bash", os.environ["RABBITMQ"], "ctl", "-q", *arguments], check=True, capture_output=True, text=True).stdout

    def leader(self, queue):
        """The index of the node that leads, once there is one."""

        def find():
            if self.broker == "warren":
                rows = json.loads(self.ctl("list_queues", "name", "leader", "--formatter", "json"))
                leader = next((row["leader"] for row in rows if row["name"] == queue), None)
                return leader and int(leader[-1]) - 1
            # Its tool takes longer than what is measured.
            url = f"http://127.0.0.1:1{self.base}/api/queues/%2F/{queue}"
            with_auth = urllib.request.Request(url, headers={"Authorization": "Basic Z3Vlc3Q6Z3Vlc3Q="})
            leader = json.load(urllib.request.urlopen(with_auth)).get("leader")
            return leader and int(leader.split("@")[0][-1]) - 1

        return await_(find, f"no leader of {queue}", zero=True)

    def kill(self, node):
        os.kill(self.pids[node], signal.SIGKILL)

    def start(self, node):
        command = [os.environ["CLUSTER"]] if self.broker == "warren" else ["bash", os.environ["RABBITMQ"]]
        subprocess.run([*command, "start", str(node + 1)], check=True, capture_output=True)
        self.pids[node] = self.listener(node)

    def listener(self, node):
        shown = subprocess.run(["ss", "-Hltnp", f"sport = :{self.base + node}"], check=True, capture_output=True, text=True).stdout
        return int(shown.split("pid=")[1].split(",")[0])

    def rss_mib(self):
        return [memory_kib(pid) / 1024 for pid in self.pids]

    def cpu_s(self):
        return [cpu_s(pid) for pid in self.pids]


def await_(find, otherwise, zero=False):
    until = time.monotonic() + PATIENCE_S
    last = None
    while time.monotonic() < until:
        try:
            last = find()
            if last or (zero and last == 0):
                return last
        except (OSError, subprocess.CalledProcessError) as error:
            last = error
        time.sleep(0.05)
    sys.exit(f"{otherwise}: {last}")


def memory_kib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class Publisher(threading.Thread):
    """Publishes one confirmed message after the other, and keeps when each was confirmed."""

    def __init__(self, cluster, node, queue):
        super().__init__(daemon=True)
        self.connection = cluster.connect(node)
        self.queue, self.confirmed, self.error, self.ending = queue, [], None, False

    def run(self):
        try:
            channel = self.connection.channel()
            channel.confirm_delivery()
            properties = pika.BasicProperties(delivery_mode=2)
            while not self.ending:
                channel.basic_publish("", self.queue, MESSAGE, properties)
                self.confirmed.append(time.monotonic())
            self.connection.close()
        except Exception as error:  # noqa: BLE001 # what it was stands in the report
            self.error = f"{type(error).__name__}: {error}"

    def pause_around(self, moment):
        """The longest time between two confirms from just before `moment` on."""
        times = [at for at in self.confirmed if at >= moment - 0.5]
        return max(later - earlier for earlier, later in zip(times, times[1:]))


def pauses(cluster, options, hit, mend):
    queue, found = "survival", []
    connection = cluster.connect(0)
    connection.channel().queue_declare(queue, durable=True, arguments=QUORUM)
    connection.close()
    for round_ in range(options.rounds):
        leader = cluster.leader(queue)
        publisher = Publisher(cluster, (leader + 1) % 3, queue)
        publisher.start()
        await_(lambda: len(publisher.confirmed) > 200, "nothing is confirmed")
        moment = time.monotonic()
        hit(leader)
        await_(lambda: publisher.error or publisher.confirmed[-1] > moment + 0.1, "no confirms any more")
        # More than one pause may follow.
        enough = len(publisher.confirmed) + 500
        await_(lambda: publisher.error or len(publisher.confirmed) > enough, "no confirms any more")
        mend(leader)
        publisher.ending = True
        publisher.join(PATIENCE_S)
        if publisher.error:
            sys.exit(f"round {round_ + 1}: {publisher.error}")
        found.append(publisher.pause_around(moment))
        print(f"   round {round_ + 1}: {found[-1]:.3f} s")
        await_(lambda: whole(cluster, queue), "the queue is not whole again")
    return {"pause_s": {"median": statistics.median(found), "min": min(found), "max": max(found)}}


def whole(cluster, queue):
    """Every node serves a passive declaration of it."""
    for node in range(3):
        try:
            connection = cluster.connect(node)
            connection.channel().queue_declare(queue, passive=True)
            connection.close()
        except pika.exceptions.AMQPError:
            return False
    return True


def measure_kill(cluster, options):
    return pauses(cluster, options, cluster.kill, cluster.start)


def measure_freeze(cluster, options):
    def stop(node):
        os.kill(cluster.pids[node], signal.SIGSTOP)

    def go_on(node):
        os.kill(cluster.pids[node], signal.SIGCONT)

    return pauses(cluster, options, stop, go_on)


def declare(cluster, count):
    connection = cluster.connect(0)
    channel = connection.channel()
    began = time.monotonic()
    for number in range(count):
        channel.queue_declare(f"many-{number}", durable=True, arguments=QUORUM)
    elapsed = time.monotonic() - began
    connection.close()
    return elapsed


def measure_declare(cluster, _options):
    return {"declared_per_s": 1_000 / declare(cluster, 1_000)}


def measure_idle(cluster, options):
    count = options.queues if cluster.broker == "warren" else options.queues // 10
    before = cluster.rss_mib()
    declare(cluster, count)
    # What a broker still has to do after the last answer is not idleness.
    time.sleep(20)
    after, cpu, began = cluster.rss_mib(), cluster.cpu_s(), time.monotonic()
    time.sleep(30)
    elapsed = time.monotonic() - began
    used = [(end - start) / elapsed for start, end in zip(cpu, cluster.cpu_s())]
    grown = [(end - start) * 1024 / count for start, end in zip(before, after)]
    return {"queues": count, "cpu_of_a_core_percent": 100 * max(used), "kib_per_queue": max(grown), "rss_mib": max(after)}


def perf(cluster, *arguments):
    uri = f"amqp://guest:guest@127.0.0.1:{cluster.base}"
    command = [os.environ["WARREN_PERF"], "--uri", uri, "-q", "--persistent", "--queue-type", "quorum", "--json", "-", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_deep(cluster, options):
    perf(cluster, "--messages", str(options.waiting), "--publish-only", "--queue-prefix", "deep")
    time.sleep(10)
    rss = max(cluster.rss_mib())
    leader = cluster.leader("deep-1")
    cluster.kill(leader)
    await_(lambda: cluster.leader("deep-1") != leader, "no other leader")
    began = time.monotonic()
    cluster.start(leader)
    restart_s = time.monotonic() - began
    drained = perf(cluster, "--drain", "--queue-prefix", "deep", "--prefetch", "500", "--ack-every", "100", "--delete")
    return {"waiting": options.waiting, "rss_mib": rss, "restart_s": restart_s, "drained_per_s": drained["consumed"]["per_s"]}


def disk_mib(cluster):
    used = 0
    for pid in cluster.pids:
        arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        data = Path(arguments[arguments.index("--config") + 1]).parent / "data"
        shown = subprocess.run(["du", "-sk", data], check=True, capture_output=True, text=True).stdout
        used = max(used, int(shown.split()[0]) / 1024)
    return used


def measure_disk(cluster, options):
    """One message is held unacknowledged while many others pass."""
    connection = cluster.connect(0)
    channel = connection.channel()
    channel.queue_declare("disk-1", durable=True, arguments=QUORUM)
    before = disk_mib(cluster)
    channel.basic_publish("", "disk-1", MESSAGE, pika.BasicProperties(delivery_mode=2))
    held = await_(lambda: channel.basic_get("disk-1")[0], "the message does not come")
    stop = threading.Event()

    def keep_alive():
        while not stop.wait(0.5):
            connection.process_data_events(0)

    alive = threading.Thread(target=keep_alive)
    alive.start()
    passed = perf(cluster, "--messages", str(options.passing), "--queue-prefix", "disk")
    stop.set()
    alive.join()
    time.sleep(10)
    after = disk_mib(cluster)
    channel.basic_nack(held.delivery_tag)
    again = await_(lambda: channel.basic_get("disk-1")[0], "the stuck message is lost")
    assert again.redelivered
    connection.close()
    return {"passed": passed["consumed"]["count"], "grown_mib": after - before, "disk_mib": after}


# (measure, figure, what it is, unit)
ROWS = [
    ("kill", ("pause_s",), "publisher's pause, leader's node killed, median (least to most)", "s"),
    ("freeze", ("pause_s",), "the same, node frozen", "s"),
    ("declare", ("declared_per_s",), "durable queues declared on one channel", "/s"),
    ("idle", ("cpu_of_a_core_percent",), "idle queues: processor time of the busiest node", "% of a core"),
    ("idle", ("kib_per_queue",), "idle queues: memory for each, largest node", "KiB"),
    ("deep", ("rss_mib",), "messages of 1 KiB waiting: memory of the largest node", "MiB"),
    ("deep", ("restart_s",), "the same: a killed leader's node back and ready", "s"),
    ("deep", ("drained_per_s",), "the same: consumed by one consumer", "/s"),
    ("disk", ("grown_mib",), "disk that the largest node keeps after messages passed by a stuck one", "MiB"),
]
COUNTS = {"idle": "queues", "deep": "waiting", "disk": "passed"}


def cell(value):
    if value is None:
        return "-"
    if isinstance(value, dict):
        return f"{value['median']:.2f} ({value['min']:.2f} to {value['max']:.2f})"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def report(out):
    results = {}
    for path in sorted((out / "runs").glob("*-*.json")):
        broker, measure = path.stem.split("-", 1)
        results.setdefault(measure, {})[broker] = json.loads(path.read_text())
    facts = dict(line.split("=", 1) for line in (out / "runs" / "facts").read_text().splitlines())
    lines = [
        "# Nodes that die, many queues, deep queues", "",
        f"{facts['date']}, Warren at {facts['commit']}: three nodes on {facts['cores']} cores ({facts['cpu']}), "
        f"{facts['memory_gib']} GiB, Linux {facts['kernel']}, {facts['disk']}.", "",
        "| measured | Warren | RabbitMQ | unit |", "|---|---|---|---|",
    ]
    for measure, (figure,), what, unit in ROWS:
        found = results.get(measure, {})
        cells = []
        for broker in ("warren", "rabbitmq"):
            result = found.get(broker)
            text = cell(result and result[figure])
            if result and measure in COUNTS:
                text += f" with {result[COUNTS[measure]]:,}"
            cells.append(text)
        if found:
            lines.append(f"| {what} | {' | '.join(cells)} | {unit} |")
    text = "\n".join(lines) + "\n"
    (out / "survival.md").write_text(text)
    (out / "survival.json").write_text(json.dumps({"facts": facts, "results": results}, indent=2) + "\n")
    print(text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("measure", choices=[*(row[0] for row in ROWS), "report"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--broker")
    parser.add_argument("--base", type=int)
    for number in ("rounds", "queues", "waiting", "passing"):
        parser.add_argument(f"--{number}", type=int)
    parser.add_argument("--pids", type=int, nargs=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.measure == "report":
        return report(options.out)
    result = globals()[f"measure_{options.measure}"](Cluster(options), options)
    options.json.write_text(json.dumps(result) + "\n")
    print("  ", json.dumps(result))


if __name__ == "__main__":
    main()
