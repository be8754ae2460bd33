#!/usr/bin/env bash
# Warren and RabbitMQ under the same load on this machine, one after the other in several rounds.
#   compare.sh --out DIR [--rounds N] [--seconds S] [--warmup S] [--only warren|rabbitmq] [--workloads LETTERS]
#              [--nodes N] [--waiting N] [--spread]
# Workloads: a  1 queue, 16 B, up to 1,000 unconfirmed messages      g  consuming those
#            b  the same with 1 KiB                                  h  a topic exchange of 10 and of 10,000 bindings
#            c  1 KiB, waiting for each confirm                         (Warren alone)
#            d  4 queues, 4 publishers, 4 consumers, 1 KiB           i  a fanout exchange to 100 queues, 1 KiB
#            e  1 KiB, publishing only                               j  1 transient queue, 16 B, no confirms
#            f  memory with --waiting messages of 1 KiB              k  500 messages/s beside a queue under full load
# Default: 3 rounds of 10 s each after 3 s of warmup, all workloads, 3 nodes, 200,000 waiting messages; all connections
# go to the first node, or are spread over the nodes with --spread. Messages are persistent and the queues durable where
# nothing else is said; RabbitMQ's are quorum queues on three nodes and classic queues on one.
# Writes DIR/compare.md, DIR/compare.json and each run's result to DIR/runs. The status is 0 if every run succeeded.
# The environment: see brokers.sh.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source-path=SCRIPTDIR source=brokers.sh
. "$TOP/tests/bench/brokers.sh"

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

out='' rounds=3 seconds=10 warmup=3 only='' workloads=abcdefghijk spread=0 nodes=3 waiting=200000
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?} ;;
    --rounds) rounds=${2:?} ;;
    --seconds) seconds=${2:?} ;;
    --warmup) warmup=${2:?} ;;
    --only) only=${2:?} ;;
    --workloads) workloads=${2:?} ;;
    --nodes) nodes=${2:?} ;;
    --waiting) waiting=${2:?} ;;
    --spread) spread=1; shift; continue ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
  esac
  shift 2
done
# shellcheck disable=SC2015 # each of them must hold
[ -n "$out" ] && [[ $rounds$waiting =~ ^[1-9][0-9]*$ ]] && [[ $workloads =~ ^[a-k]+$ ]] && [[ $nodes =~ ^[1-9]$ ]] &&
  [[ $only =~ ^(warren|rabbitmq|)$ ]] || { usage >&2; exit 64; }

# What a broker may still have to do after the last confirm, before its memory is looked at.
SETTLE_S=5

# Acknowledgements, where nothing else is said.
ACKS=(--prefetch 500 --ack-every 100)

# run NAME OPTION...: one run of this round; its result goes to runs/ROUND-BROKER-NAME.json.
run() {
  local name=$1
  shift
  say "-- round $round, $broker: $name"
  perf "$out/runs/$round-$broker-$name" "${ACKS[@]}" "$@"
}

# timed NAME OPTION...: so many seconds, in queues of its own.
timed() {
  local name=$1
  shift
  run "$name" --seconds "$seconds" --warmup "$warmup" --queue-prefix "bench-$round-$name" --delete "$@"
}

# memory NAME: the resident memory of each node, in KiB.
memory() {
  local pid list=''
  for pid in $(pids_of "$broker"); do
    list+=${list:+, }$(awk '/^VmRSS:/ { print $2 }' "/proc/$pid/status")
  done
  echo "{\"rss_kib\": [$list]}" >"$out/runs/$round-$broker-$1.json"
}

wants() { [[ $workloads == *"$1"* ]]; }

# A light queue alone, and beside one that is published to and consumed from as fast as the broker can.
fairness() {
  local light=(--size 1024 --confirm 100 --rate 500 "$@") beside ACKS=(--prefetch 500 --ack-every 1)
  timed kalone "${light[@]}"
  "$PERF" --uri "amqp://guest:guest@127.0.0.1:$(base_of "$broker")" --quiet --size 1024 --confirm 1000 --prefetch 500 \
    --ack-every 100 --queue-prefix "bench-$round-full" --delete --seconds $((seconds + warmup + 2)) "$@" \
    >"$out/runs/$round-$broker-full.txt" 2>&1 &
  beside=$!
  timed kbeside "${light[@]}"
  wait "$beside" || failed=1
}

measure() {
  local durable=(--persistent)
  if [ "$broker" = rabbitmq ] && [ "$nodes" -gt 1 ]; then durable+=(--queue-type quorum); fi
  # First, since a broker does not give back all the memory that it has used.
  if wants f || wants g; then
    memory idle
    run fill --messages "$waiting" --size 1024 --publish-only --queue-prefix "bench-$round-f" "${durable[@]}"
    sleep "$SETTLE_S"
    memory f
    run g --drain --queue-prefix "bench-$round-f" --delete "${durable[@]}"
  fi
  ! wants a || timed a --size 16 --confirm 1000 "${durable[@]}"
  ! wants b || timed b --size 1024 --confirm 1000 "${durable[@]}"
  ! wants c || timed c --size 1024 --confirm 1 "${durable[@]}"
  ! wants d || timed d --size 1024 --confirm 1000 --queues 4 --publishers 4 --consumers 4 "${durable[@]}"
  ! wants e || timed e --size 1024 --confirm 1000 --publish-only "${durable[@]}"
  if wants h && [ "$broker" = warren ]; then
    # The queue costs as little as can be, so that routing shows.
    local bindings
    for bindings in 10 10000; do
      timed "h$bindings" --topic-bindings "$bindings" --size 16 --confirm 1000 --transient --no-ack
    done
  fi
  ! wants i || timed i --size 1024 --confirm 100 --fanout --queues 100 --consumers 4 "${durable[@]}"
  ! wants j || timed j --size 16 --confirm 0 --transient
  ! wants k || fairness "${durable[@]}"
}

prepare "$only"
{ facts; echo "rounds=$rounds"; echo "seconds=$seconds"; echo "warmup=$warmup"; echo "waiting=$waiting"; } >"$out/runs/facts"
for round in $(seq "$rounds"); do
  order=("${brokers[@]}")
  # Neither is always the first.
  if [ "${#order[@]}" -eq 2 ] && [ $((round % 2)) -eq 0 ]; then order=("${brokers[1]}" "${brokers[0]}"); fi
  for broker in "${order[@]}"; do
    say "== round $round: starting $broker"
    start "$broker"
    measure
    stop "$broker"
  done
done

python3 "$TOP/tests/bench/report.py" "$out" >&2
exit "$failed"
