#!/usr/bin/env python3
"""Plots and tables of the runs that curves.sh left in DIR/runs: writes DIR/CURVE.svg, DIR/curves.md, DIR/curves.json.

A run is a file CURVE-BROKER-VALUE.json of warren-perf's; one that failed left only .err.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402 # after the choice of what draws
from matplotlib.ticker import FuncFormatter  # noqa: E402

CURVES = {
    "size": "size of a message's body, bytes",
    "window": "unconfirmed messages at most",
    "queues": "queues",
    "connections": "connections",
    "bindings": "bindings of a topic exchange",
    "nodes": "nodes",
}
BROKERS = {"warren": ("Warren", "#c4501b"), "rabbitmq": ("RabbitMQ", "#4a6fa5")}


def at(run, *path):
    for name in path:
        run = run.get(name) if run else None
    return run


def ms(us):
    return None if us is None else us / 1000


# name: (title of the axis, {label: (line style, how it is read from a run)})
PANELS = [
    ("consumed/s", {"": ("-", lambda run: at(run, "consumed", "per_s"))}),
    ("publish to confirm, ms", {
        "p50": ("-", lambda run: ms(at(run, "confirm_latency", "p50"))),
        "p99": (":", lambda run: ms(at(run, "confirm_latency", "p99"))),
    }),
    ("publish to deliver, ms", {
        "p50": ("-", lambda run: ms(at(run, "deliver_latency", "p50"))),
        "p99": (":", lambda run: ms(at(run, "deliver_latency", "p99"))),
    }),
    ("broker CPU per message, us", {"": ("-", lambda run: run.get("watched_cpu_us_per_message"))}),
]


def plain(value, _=None):
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def plot(title, runs, path):
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), constrained_layout=True)
    for axis, (name, lines) in zip(axes.flat, PANELS):
        for broker, (called, colour) in BROKERS.items():
            for label, (style, read) in lines.items():
                points = [(value, y) for value, run in sorted(runs.get(broker, {}).items()) if (y := read(run))]
                if points:
                    axis.plot(*zip(*points), style, color=colour, marker=".", label=f"{called} {label}".strip())
        axis.set(title=name, xscale="log", yscale="log", xlabel=title)
        axis.xaxis.set_major_formatter(FuncFormatter(plain))
        axis.yaxis.set_major_formatter(FuncFormatter(plain))
        axis.xaxis.set_minor_formatter("")
        axis.yaxis.set_minor_formatter("")
        axis.grid(True, which="major", alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small")
    figure.savefig(path)
    plt.close(figure)


def cell(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def table(name, runs):
    lines = [f"## {name}", "", f"![{name}]({name}.svg)", "", f"| {CURVES[name]} | broker | consumed/s | confirm p50 / p99, ms "
             "| deliver p50 / p99, ms | broker CPU per message, us |", "|---|---|---|---|---|---|"]
    for value in sorted({value for some in runs.values() for value in some}):
        for broker, (called, _) in BROKERS.items():
            run = runs.get(broker, {}).get(value)
            if run is None:
                continue
            cells = [" / ".join(cell(read(run)) for _, read in lines_.values()) for _, lines_ in PANELS]
            lines.append(f"| {value:,} | {called} | {' | '.join(cells)} |")
    return lines + [""]


def main():
    out = Path(sys.argv[1])
    facts = dict(line.split("=", 1) for line in (out / "runs" / "facts").read_text().splitlines())
    curves, failures = {}, []
    for path in sorted((out / "runs").glob("*-*-*")):
        curve, broker, value = path.stem.split("-", 2)
        if path.suffix == ".json":
            curves.setdefault(curve, {}).setdefault(broker, {})[int(value)] = json.loads(path.read_text())
        elif path.suffix == ".err" and not path.with_suffix(".json").exists():
            failures.append(f"{broker}, {curve} {value}: {(path.read_text().strip().splitlines() or ['?'])[-1]}")
    lines = [
        "# Curves",
        "",
        f"{facts['date']}, Warren at {facts['commit']}: {facts['cores']} cores ({facts['cpu']}), {facts['memory_gib']} GiB, Linux "
        f"{facts['kernel']}; load average before: {facts['load_before']}.",
        f"One point is {facts['seconds']} s after {facts['warmup']} s of warmup; brokers and load generator on this machine. "
        "RabbitMQ's queues are quorum queues, classic where there is one node or the queue is transient.",
        "",
    ]
    for name in CURVES:
        if name in curves:
            plot(CURVES[name], curves[name], out / f"{name}.svg")
            lines += table(name, curves[name])
    if failures:
        lines += ["Failed runs:", "", *(f"- {failure}" for failure in failures), ""]
    (out / "curves.md").write_text("\n".join(lines))
    (out / "curves.json").write_text(json.dumps({"facts": facts, "curves": curves, "failures": failures}, indent=2) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
