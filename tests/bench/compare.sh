#!/usr/bin/env bash
# Warren and RabbitMQ, three nodes each, under the same load on this machine, one after the other in several rounds.
#   compare.sh --out DIR [--rounds N] [--seconds S] [--warmup S] [--only warren|rabbitmq] [--workloads LETTERS] [--spread]
# Workloads: a  1 queue, 16 B, up to 1,000 unconfirmed messages      f  memory with 200,000 waiting messages of 1 KiB
#            b  the same with 1 KiB                                  g  consuming those
#            c  1 KiB, waiting for each confirm                      h  a topic exchange of 10 and of 10,000 bindings
#            d  4 queues, 4 publishers, 4 consumers, 1 KiB              (Warren alone)
#            e  1 KiB, publishing only
# Default: 3 rounds of 10 s each after 3 s of warmup, all workloads; all connections go to the first node, or are spread
# over the three with --spread. Messages are persistent, the queues durable (RabbitMQ: quorum queues).
# Writes DIR/compare.md, DIR/compare.json and each run's result to DIR/runs. The status is 0 if every run succeeded.
# WARREN_BENCH_RABBITMQ: a script that runs RabbitMQ on 127.0.0.1:5681 to 5683: `up 3` starts an empty cluster,
#   `down` stops it and deletes its data. Without it only Warren is measured.
# WARREN_BENCH_RABBITMQ_BASE (5681): another first port.
# WARREN_BIN: a directory with warren, warrenctl and warren-perf to use, instead of building them.
# WARREN_BENCH_DIR (~/.cache/warren-bench): the cluster's data, on the disk that is to be measured.
# WARREN_AMQP_BASE (26872), WARREN_CLUSTER_BASE (28101): Warren's first ports.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source-path=SCRIPTDIR source=../../deploy/prepare.sh
. "$TOP/deploy/prepare.sh"

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

out='' rounds=3 seconds=10 warmup=3 only='' workloads=abcdefgh spread=0
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?} ;;
    --rounds) rounds=${2:?} ;;
    --seconds) seconds=${2:?} ;;
    --warmup) warmup=${2:?} ;;
    --only) only=${2:?} ;;
    --workloads) workloads=${2:?} ;;
    --spread) spread=1; shift; continue ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
  esac
  shift 2
done
# shellcheck disable=SC2015 # each of them must hold
[ -n "$out" ] && [[ $rounds =~ ^[1-9][0-9]*$ ]] && [[ $workloads =~ ^[a-h]+$ ]] && [[ $only =~ ^(warren|rabbitmq|)$ ]] ||
  { usage >&2; exit 64; }

BENCH=$(realpath -m "${WARREN_BENCH_DIR:-$HOME/.cache/warren-bench}")
export WARREN_CLUSTER_DIR=$BENCH/cluster
export WARREN_AMQP_BASE=${WARREN_AMQP_BASE:-26872} WARREN_CLUSTER_BASE=${WARREN_CLUSTER_BASE:-28101}
RABBITMQ=${WARREN_BENCH_RABBITMQ:-}
RABBITMQ_BASE=${WARREN_BENCH_RABBITMQ_BASE:-5681}
WAITING=200000
# What a broker may still have to do after the last confirm, before its memory is looked at.
SETTLE_S=5

brokers=(warren rabbitmq)
if [ -n "$only" ]; then brokers=("$only"); fi
if [ -z "$RABBITMQ" ]; then
  [ "$only" != rabbitmq ] || die "WARREN_BENCH_RABBITMQ does not say how RabbitMQ is run"
  say "Only Warren is measured: WARREN_BENCH_RABBITMQ does not say how RabbitMQ is run."
  brokers=(warren)
fi

# shellcheck disable=SC2046 # a list of words
install $(missing ss iproute2; missing python3 python3)
if [ -z "${WARREN_BIN:-}" ]; then
  prepare_build
  say "Building ..."
  (cd "$TOP" && cargo build --release -p warren-broker --bins)
  export WARREN_BIN=$CARGO_TARGET_DIR/release
fi
PERF=$WARREN_BIN/warren-perf
[ -x "$PERF" ] || die "There is no $PERF"

mkdir -p "$out/runs" "$BENCH"
out=$(realpath "$out")
rm -f "$out"/runs/*
failed=0

base_of() { if [ "$1" = warren ]; then echo "$WARREN_AMQP_BASE"; else echo "$RABBITMQ_BASE"; fi; }

# The processes that listen on a broker's ports, node by node.
pids_of() {
  local base n
  base=$(base_of "$1")
  for n in 0 1 2; do
    ss -Hltnp "sport = :$((base + n))" | grep -oP 'pid=\K[0-9]+' | sort -u | head -n 1 || true
  done
}

start() {
  if [ "$1" = warren ]; then
    rm -rf "$WARREN_CLUSTER_DIR"
    "$TOP/deploy/cluster.sh" up
  else
    bash "$RABBITMQ" up 3
  fi
}

stop() {
  if [ "$1" = warren ]; then
    [ ! -d "$WARREN_CLUSTER_DIR" ] || "$TOP/deploy/cluster.sh" down
    rm -rf "$WARREN_CLUSTER_DIR"
  else
    bash "$RABBITMQ" down
  fi
}

running=''
# shellcheck disable=SC2317 # the trap calls it
cleanup() {
  local status=$?
  trap - EXIT INT TERM
  [ -z "$running" ] || stop "$running" >>"$out/runs/log" 2>&1 || say "Could not stop $running: $out/runs/log"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# perf NAME OPTION...: one run against the broker that runs; its result goes to runs/ROUND-BROKER-NAME.json.
perf() {
  local name=$1 file=$out/runs/$round-$broker-$1 base n pid options=()
  shift
  base=$(base_of "$broker")
  for n in 0 1 2; do
    options+=(--uri "amqp://guest:guest@127.0.0.1:$((base + n))")
    [ "$spread" = 1 ] || break
  done
  for pid in $(pids_of "$broker"); do options+=(--watch "$pid"); done
  say "-- round $round, $broker: $name"
  if ! "$PERF" "${options[@]}" --quiet --persistent --prefetch 500 --ack-every 100 --json "$file.json" "$@" \
    >"$file.txt" 2>"$file.err"; then
    failed=1
    say "   failed: $(tail -n 1 "$file.err")"
    return
  fi
  sed 's/^/   /' "$file.txt" >&2
  rm -f "$file.txt"
  [ -s "$file.err" ] || rm -f "$file.err"
}

# timed NAME OPTION...: so many seconds, in queues of its own.
timed() {
  local name=$1
  shift
  perf "$name" --seconds "$seconds" --warmup "$warmup" --queue-prefix "bench-$round-$name" --delete "$@"
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

measure() {
  local queue=()
  if [ "$broker" = rabbitmq ]; then queue=(--queue-type quorum); fi
  # First, since a broker does not give back all the memory that it has used.
  if wants f || wants g; then
    memory idle
    perf fill --messages "$WAITING" --size 1024 --publish-only --queue-prefix "bench-$round-f" "${queue[@]}"
    sleep "$SETTLE_S"
    memory f
    perf g --drain --queue-prefix "bench-$round-f" --delete
  fi
  ! wants a || timed a --size 16 --confirm 1000 "${queue[@]}"
  ! wants b || timed b --size 1024 --confirm 1000 "${queue[@]}"
  ! wants c || timed c --size 1024 --confirm 1 "${queue[@]}"
  ! wants d || timed d --size 1024 --confirm 1000 --queues 4 --publishers 4 --consumers 4 "${queue[@]}"
  ! wants e || timed e --size 1024 --confirm 1000 --publish-only "${queue[@]}"
  if wants h && [ "$broker" = warren ]; then
    # The queue costs as little as can be, so that routing shows.
    local bindings
    for bindings in 10 10000; do
      timed "h$bindings" --topic-bindings "$bindings" --size 16 --confirm 1000 --transient --no-ack
    done
  fi
}

{
  echo "date=$(date -u +%FT%TZ)"
  echo "cores=$(nproc)"
  echo "cpu=$(awk -F': *' '/^model name/ { print $2; exit }' /proc/cpuinfo)"
  echo "memory_gib=$(awk '/^MemTotal:/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo)"
  echo "kernel=$(uname -r)"
  echo "disk=$(df --output=source,fstype "$BENCH" | tail -n 1 | tr -s ' ')"
  echo "load_before=$(cut -d ' ' -f 1-3 /proc/loadavg)"
  echo "commit=$(git -C "$TOP" describe --always --dirty 2>/dev/null || echo unknown)"
  echo "rounds=$rounds"
  echo "seconds=$seconds"
  echo "warmup=$warmup"
  echo "spread=$spread"
} >"$out/runs/facts"

for round in $(seq "$rounds"); do
  order=("${brokers[@]}")
  # Neither is always the first.
  if [ "${#order[@]}" -eq 2 ] && [ $((round % 2)) -eq 0 ]; then order=("${brokers[1]}" "${brokers[0]}"); fi
  for broker in "${order[@]}"; do
    for other in warren rabbitmq; do
      [ -n "$(pids_of $other)" ] || continue
      busy="Something listens on port $(base_of $other) or one of the next two"
      [[ " ${brokers[*]} " != *" $other "* ]] || die "$busy: stop it, it would be measured too."
      say "$busy: what it does takes from what is measured."
    done
    say "== round $round: starting $broker"
    running=$broker
    start "$broker" >>"$out/runs/log" 2>&1 || die "$broker did not start: $out/runs/log"
    [ "$(pids_of "$broker" | wc -l)" -eq 3 ] || die "$broker has not three nodes on 127.0.0.1:$(base_of "$broker") and the next two"
    measure
    stop "$broker" >>"$out/runs/log" 2>&1 || die "$broker did not stop: $out/runs/log"
    running=''
  done
done

python3 "$TOP/tests/bench/report.py" "$out" >&2
exit "$failed"
