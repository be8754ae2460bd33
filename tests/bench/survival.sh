#!/usr/bin/env bash
# What Warren and RabbitMQ do when nodes die, and with many and deep queues: three nodes each, one after the other.
#   survival.sh --out DIR [--only warren|rabbitmq] [--rounds N] [--measures NAMES] [--queues N] [--waiting N] [--passing N]
# Measures: kill     a publisher's pause when the leader's node is killed, median of --rounds (10)
#           freeze   the same when it is stopped (SIGSTOP)
#           declare  1,000 durable queues declared on one channel
#           idle     --queues (10,000; RabbitMQ a tenth) idle durable queues: processor time and memory of each node
#           deep     --waiting (1,000,000) messages of 1 KiB: memory, a killed node's way back, one consumer's rate
#           disk     disk of the largest node after --passing (10,000,000) messages went by a stuck one (Warren alone)
# Writes DIR/survival.md and DIR/survival.json. The status is 0 if every measurement succeeded.
# The environment: see brokers.sh. Clients are pika's, in a Python environment under WARREN_BENCH_DIR.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source-path=SCRIPTDIR source=brokers.sh
. "$TOP/tests/bench/brokers.sh"

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

out='' only='' rounds=10 measures=kill,freeze,declare,idle,deep,disk queues=10000 waiting=1000000 passing=10000000
# shellcheck disable=SC2034 # brokers.sh reads it
spread=0 nodes=3
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?} ;;
    --only) only=${2:?} ;;
    --rounds) rounds=${2:?} ;;
    --measures) measures=${2:?} ;;
    --queues) queues=${2:?} ;;
    --waiting) waiting=${2:?} ;;
    --passing) passing=${2:?} ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
  esac
  shift 2
done
if [ -z "$out" ] || ! [[ $only =~ ^(warren|rabbitmq|)$ ]] || ! [[ $rounds$queues$waiting$passing =~ ^[1-9][0-9]*$ ]]; then
  usage >&2
  exit 64
fi

prepare "$only"
python=$BENCH/clients/bin/python
if ! "$python" -c 'import pika' 2>/dev/null; then
  say "Installing pika ..."
  { python3 -m venv "$BENCH/clients" && "$BENCH/clients/bin/pip" install -q pika==1.3.2; } >>"$out/runs/log" 2>&1 ||
    die "Could not install pika: $out/runs/log"
fi
facts >"$out/runs/facts"
for broker in "${brokers[@]}"; do
  for measure in ${measures//,/ }; do
    if [ "$broker" = rabbitmq ] && [ "$measure" = disk ]; then continue; fi
    say "== $broker: $measure"
    start "$broker"
    mapfile -t pids < <(pids_of "$broker")
    WARREN_PERF=$PERF CLUSTER=$TOP/deploy/cluster.sh RABBITMQ=$RABBITMQ "$python" "$TOP/tests/bench/survival.py" "$measure" \
      --broker "$broker" --base "$(base_of "$broker")" --rounds "$rounds" --queues "$queues" --waiting "$waiting" \
      --passing "$passing" --pids "${pids[@]}" --json "$out/runs/$broker-$measure.json" >&2 || failed=1
    stop "$broker"
  done
done
"$python" "$TOP/tests/bench/survival.py" report --out "$out" >&2
exit "$failed"
