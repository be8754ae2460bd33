#!/usr/bin/env python3
"""Medians and ratios of the runs that compare.sh left in DIR/runs: writes DIR/compare.md and DIR/compare.json.

A run is a file ROUND-BROKER-NAME.json of warren-perf's, or of the nodes' memory; one that failed left only .err.
"""

import json
import statistics
import sys
from pathlib import Path

# How many times as slow publishing may be with a thousand times the bindings.
TOPIC_MAX = 3
# How many times as long a light queue's deliveries may take beside a queue under full load.
LIGHT_MAX = 5

BROKERS = ("warren", "rabbitmq")


def at(*path):
    """The value at a path of a run's result, or None."""

    def value(run):
        for name in path:
            run = run.get(name) if run else None
        return run

    return value


def largest_mib(run):
    nodes = run["rss_kib"]
    return max(nodes) / 1024 if nodes else None


PUBLISHED = ("published", "/s", at("published", "per_s"), True)
CONSUMED = ("consumed", "/s", at("consumed", "per_s"), True)
BROKER_CPU = ("broker CPU per message, all nodes", "us", at("watched_cpu_us_per_message"), False)


def latency(of, percentile):
    of_us = at(f"{of}_latency", percentile)

    def of_ms(run):
        us = of_us(run)
        return None if us is None else us / 1000

    return (f"publish to {of}, {percentile}", "ms", of_ms, False)


# (letter, run, what is done, [(what is measured, unit, how it is read from a run, whether more is better)])
WORKLOADS = [
    ("a", "a", "1 queue, 16 B, 1,000 unconfirmed", [CONSUMED, PUBLISHED, latency("deliver", "p50"), BROKER_CPU]),
    ("b", "b", "1 queue, 1 KiB, 1,000 unconfirmed",
     [CONSUMED, PUBLISHED, latency("deliver", "p50"), latency("confirm", "p50"), BROKER_CPU]),
    ("c", "c", "1 KiB, each confirm awaited",
     [PUBLISHED, latency("confirm", "p50"), latency("confirm", "p99"), latency("deliver", "p50"), BROKER_CPU]),
    ("d", "d", "4 queues, 4 publishers, 4 consumers, 1 KiB",
     [CONSUMED, PUBLISHED, latency("deliver", "p50"), BROKER_CPU]),
    ("e", "e", "publishing only, 1 KiB", [PUBLISHED, latency("confirm", "p50"), BROKER_CPU]),
    ("f", "idle", "no queue yet", [("memory of the largest node", "MiB", largest_mib, False)]),
    ("f", "f", "{waiting} x 1 KiB waiting", [("memory of the largest node", "MiB", largest_mib, False)]),
    ("g", "g", "consuming those", [CONSUMED, BROKER_CPU]),
    ("h", "h10", "topic exchange, 10 bindings, 16 B, transient", [PUBLISHED, BROKER_CPU]),
    ("h", "h10000", "topic exchange, 10,000 bindings", [PUBLISHED, BROKER_CPU]),
    ("i", "i", "fanout exchange to 100 queues, 1 KiB", [CONSUMED, PUBLISHED, latency("deliver", "p50")]),
    ("j", "j", "1 transient queue, 16 B, no confirms", [CONSUMED, PUBLISHED, latency("deliver", "p50"), BROKER_CPU]),
    ("k", "kalone", "500 messages/s in an idle cluster", [latency("deliver", "p50"), latency("deliver", "p99")]),
    ("k", "kbeside", "the same beside a queue under full load", [latency("deliver", "p50"), latency("deliver", "p99")]),
]


def load(out):
    runs, failures = {}, []
    for path in sorted((out / "runs").glob("*-*-*")):
        round_, broker, name = path.stem.split("-", 2)
        if path.suffix == ".json":
            runs.setdefault((broker, name), []).append(json.loads(path.read_text()))
        elif path.suffix == ".err" and not path.with_suffix(".json").exists():
            lines = path.read_text().strip().splitlines()
            failures.append({"round": int(round_), "broker": broker, "run": name, "error": lines[-1] if lines else "?"})
    return runs, failures


def summary(runs, read):
    values = [value for run in runs if (value := read(run)) is not None]
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


def number(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(result):
    if result is None:
        return "-"
    text = number(result["median"])
    if len(result["values"]) > 1:
        text += f" ({number(result['min'])} to {number(result['max'])})"
    return text


def better(ours, theirs, more_is_better):
    """How many times better the first is, or None."""
    if not ours or not theirs or not ours["median"] or not theirs["median"]:
        return None
    ratio = ours["median"] / theirs["median"]
    return ratio if more_is_better else 1 / ratio


def main():
    out = Path(sys.argv[1])
    runs, failures = load(out)
    facts = dict(line.split("=", 1) for line in (out / "runs" / "facts").read_text().splitlines())
    rows = []
    for letter, name, what, measures in WORKLOADS:
        for measure, unit, read, more_is_better in measures:
            results = {broker: summary(runs.get((broker, name), []), read) for broker in BROKERS}
            if any(results.values()):
                rows.append({
                    "workload": letter, "run": name, "what": what.format(waiting=f"{int(facts['waiting']):,}"), "measure": measure, "unit": unit,
                    "more_is_better": more_is_better, **results,
                    "warren_is_better": better(results["warren"], results["rabbitmq"], more_is_better),
                })
    topic = {}
    for name, read, inverted in (("rate", at("published", "per_s"), False), ("cpu", BROKER_CPU[2], True)):
        few, many = (summary(runs.get(("warren", run), []), read) for run in ("h10", "h10000"))
        topic[name] = better(few, many, not inverted)
    light = {}
    for broker in BROKERS:
        alone, beside = (summary(runs.get((broker, run), []), latency("deliver", "p99")[2]) for run in ("kalone", "kbeside"))
        light[broker] = better(beside, alone, True)

    servers = {
        broker: next((run["server"] for (of, _), some in runs.items() if of == broker for run in some if "server" in run), None)
        for broker in BROKERS
    }
    result = {"facts": facts, "servers": servers, "rows": rows, "topic_10000_to_10": topic, "light_beside_to_alone": light, "failures": failures}
    (out / "compare.json").write_text(json.dumps(result, indent=2) + "\n")
    text = markdown(facts, servers, rows, topic, light, failures)
    (out / "compare.md").write_text(text)
    print(text)


def markdown(facts, servers, rows, topic, light, failures):
    cores, connections = facts["cores"], "spread over all nodes" if facts["spread"] == "1" else "to the first node"
    lines = [
        "# Warren and RabbitMQ side by side",
        "",
        f"{facts['nodes']} nodes and the load generator on one machine: {cores} cores ({facts['cpu']}), {facts['memory_gib']} GiB, "
        f"Linux {facts['kernel']}, {facts['disk']}; load average before: {facts['load_before']}.",
        f"Warren at {facts['commit']}, durable queues; "
        + (f"{servers['rabbitmq']}, {'classic' if facts['nodes'] == '1' else 'quorum'} queues" if servers["rabbitmq"] else "RabbitMQ was not measured")
        + "; one cluster runs at a time.",
        f"{facts['date']}; median (least to most) of {facts['rounds']} rounds of {facts['seconds']} s "
        f"after {facts['warmup']} s of warmup.",
        f"Persistent messages where nothing else is said, prefetch 500, an acknowledgement for every 100; all connections {connections}.",
        "",
        "| | workload | measured | Warren | RabbitMQ | Warren is better by |",
        "|---|---|---|---|---|---|",
    ]
    before = None
    for row in rows:
        first = row["run"] != before
        before = row["run"]
        ratio = row["warren_is_better"]
        lines.append(
            f"| {row['workload'] if first else ''} | {row['what'] if first else ''} | {row['measure']}, {row['unit']} "
            f"| {cell(row['warren'])} | {cell(row['rabbitmq'])} | {'-' if ratio is None else f'{ratio:.2f}x'} |"
        )
    if topic["rate"]:
        lines += ["", f"Topic exchange, 10,000 bindings against 10: {topic['rate']:.2f} times as slow"
                  + (f", {topic['cpu']:.2f} times the broker's CPU per message" if topic["cpu"] else "") + f" (wanted: at most {TOPIC_MAX})."]
    for broker, ratio in light.items():
        if ratio:
            lines += ["", f"{broker}: the light queue's p99 beside the loaded one is {ratio:.1f} times that alone (wanted: at most {LIGHT_MAX})."]
    if failures:
        lines += ["", "Failed runs:", ""]
        lines += [f"- round {f['round']}, {f['broker']}, {f['run']}: {f['error']}" for f in failures]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
