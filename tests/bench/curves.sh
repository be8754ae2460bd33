#!/usr/bin/env bash
# How throughput, latency and processor time change with one figure at a time, Warren's and RabbitMQ's in one plot.
#   curves.sh --out DIR [--seconds S] [--warmup S] [--only warren|rabbitmq] [--curves NAMES] [--spread]
# Curves: size (16 B to 1 MiB), window (unconfirmed messages), queues (1 to 1,000), connections (publishers, and as many
# consumers, over ten queues), bindings (of a topic exchange, transient queue), nodes (1, 3, 5).
# Default: 3 s after 1 s of warmup for each point, all curves. What is not varied is 1 publisher, 1 consumer, 1 durable
# queue on 3 nodes, persistent messages of 1 KiB, up to 1,000 unconfirmed, prefetch 500, an acknowledgement for every 100.
# Writes DIR/curves.md, DIR/curves.json and DIR/CURVE.svg. The status is 0 if every run succeeded.
# The environment: see brokers.sh. The plots are drawn by matplotlib, in a Python environment under WARREN_BENCH_DIR.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source-path=SCRIPTDIR source=brokers.sh
. "$TOP/tests/bench/brokers.sh"

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

ALL=size,window,queues,connections,bindings,nodes
out='' seconds=3 warmup=1 only='' curves=$ALL spread=0 nodes=3
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?} ;;
    --seconds) seconds=${2:?} ;;
    --warmup) warmup=${2:?} ;;
    --only) only=${2:?} ;;
    --curves) curves=${2:?} ;;
    --spread) spread=1; shift; continue ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
  esac
  shift 2
done
if [ -z "$out" ] || ! [[ $only =~ ^(warren|rabbitmq|)$ ]]; then usage >&2; exit 64; fi
for curve in ${curves//,/ }; do
  [[ ,$ALL, == *,$curve,* ]] || { say "No such curve: $curve"; usage >&2; exit 64; }
done

# Acknowledgements, where nothing else is said.
ACKS=(--prefetch 500 --ack-every 100)

# point CURVE VALUE OPTION...: one run; its result goes to runs/CURVE-BROKER-VALUE.json.
point() {
  local curve=$1 value=$2 durable=(--persistent)
  shift 2
  if [ "$curve" = bindings ]; then
    durable=()
  elif [ "$broker" = rabbitmq ] && [ "$nodes" -gt 1 ]; then
    durable+=(--queue-type quorum)
  fi
  say "-- $broker, $curve: $value"
  perf "$out/runs/$curve-$broker-$value" --queue-prefix "curve-$curve-$value" --delete --seconds "$seconds" \
    --warmup "$warmup" "${ACKS[@]}" "${durable[@]}" "$@"
}

measure() {
  local value
  local ACKS=("${ACKS[@]}")
  case $1 in
    size)
      for value in 16 64 256 1024 4096 16384 65536 262144 1048576; do
        # As many unconfirmed bytes at most as with 1,000 messages of 16 KiB.
        point size "$value" --size "$value" --confirm "$((value > 16384 ? 16384000 / value : 1000))"
      done ;;
    window)
      for value in 1 10 100 1000 10000; do point window "$value" --size 1024 --confirm "$value"; done ;;
    queues)
      for value in 1 10 100 1000; do
        point queues "$value" --size 1024 --confirm 1000 --queues "$value" --publishers 10 --consumers 10
      done ;;
    connections)
      ACKS=(--prefetch 50 --ack-every 10)
      for value in 1 10 100 500; do
        point connections "$((2 * value))" --size 1024 --confirm "$((value > 10 ? 10000 / value : 1000))" --queues 10 \
          --publishers "$value" --consumers "$value"
      done ;;
    bindings)
      for value in 10 100 1000 10000 100000; do
        point bindings "$value" --topic-bindings "$value" --size 16 --confirm 1000 --transient --no-ack
      done ;;
  esac
}

prepare "$only"
{ facts; echo "seconds=$seconds"; echo "warmup=$warmup"; } >"$out/runs/facts"
for broker in "${brokers[@]}"; do
  if [ "$curves" != nodes ]; then
    say "== starting $broker"
    start "$broker"
    for curve in ${curves//,/ }; do measure "$curve"; done
    stop "$broker"
  fi
  [[ ,$curves, == *,nodes,* ]] || continue
  for nodes in 1 3 5; do
    # RabbitMQ's script may not have so many.
    if [ "$broker" = rabbitmq ] && [ "$nodes" -gt 3 ]; then continue; fi
    say "== starting $broker, $nodes nodes"
    start "$broker"
    point nodes "$nodes" --size 1024 --confirm 1000
    stop "$broker"
  done
  nodes=3
done

plots=$BENCH/plots
if ! "$plots/bin/python" -c 'import matplotlib' 2>/dev/null; then
  say "Installing matplotlib ..."
  { python3 -m venv "$plots" && "$plots/bin/pip" install -q matplotlib; } >>"$out/runs/log" 2>&1 ||
    die "Could not install matplotlib: $out/runs/log"
fi
"$plots/bin/python" "$TOP/tests/bench/curves.py" "$out" >&2
exit "$failed"
