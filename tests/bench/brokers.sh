# Warren and RabbitMQ for the benchmarks that source this: one at a time, on this machine, and warren-perf against them.
# Expects $TOP, $out (the report's directory), $nodes, $spread; sets $broker's processes up and down.
#
# WARREN_BENCH_RABBITMQ: a script that runs RabbitMQ on 127.0.0.1:5681 and so on: `up N` starts an empty cluster of N
#   nodes, `down` stops it and deletes its data. Without it only Warren is measured.
# WARREN_BENCH_RABBITMQ_BASE (5681): another first port.
# WARREN_BIN: a directory with warren, warrenctl and warren-perf to use, instead of building them.
# WARREN_BENCH_DIR (~/.cache/warren-bench): the cluster's data, on the disk that is to be measured.
# WARREN_AMQP_BASE (26872), WARREN_CLUSTER_BASE (28101): Warren's first ports.
# shellcheck shell=bash disable=SC2154 # what the script that sources this sets

# shellcheck source-path=SCRIPTDIR source=../../deploy/prepare.sh
. "$TOP/deploy/prepare.sh"

BENCH=$(realpath -m "${WARREN_BENCH_DIR:-$HOME/.cache/warren-bench}")
export WARREN_CLUSTER_DIR=$BENCH/cluster
export WARREN_AMQP_BASE=${WARREN_AMQP_BASE:-26872} WARREN_CLUSTER_BASE=${WARREN_CLUSTER_BASE:-28101}
RABBITMQ=${WARREN_BENCH_RABBITMQ:-}
RABBITMQ_BASE=${WARREN_BENCH_RABBITMQ_BASE:-5681}
# Whether a run failed.
# shellcheck disable=SC2034 # the status of the script that sources this
failed=0
running=''

# prepare ONLY: what is to be measured, into `brokers`; what measures it; the report's directory.
prepare() {
  brokers=(warren rabbitmq)
  if [ -n "$1" ]; then brokers=("$1"); fi
  if [ -z "$RABBITMQ" ]; then
    [ "$1" != rabbitmq ] || die "WARREN_BENCH_RABBITMQ does not say how RabbitMQ is run"
    say "Only Warren is measured: WARREN_BENCH_RABBITMQ does not say how RabbitMQ is run."
    brokers=(warren)
  fi
  # shellcheck disable=SC2046 # a list of words
  install $(missing ss iproute2; missing python3 python3)
  if [ -z "${WARREN_BIN:-}" ]; then
    build_programs
    export WARREN_BIN=$CARGO_TARGET_DIR/dist
  fi
  PERF=$WARREN_BIN/warren-perf
  [ -x "$PERF" ] || die "There is no $PERF"
  mkdir -p "$out/runs" "$BENCH"
  out=$(realpath "$out")
  rm -f "$out"/runs/*
  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# What the report says of the machine and the run. Further facts may be appended.
facts() {
  echo "date=$(date -u +%FT%TZ)"
  echo "cores=$(nproc)"
  echo "cpu=$(awk -F': *' '/^model name/ { print $2; exit }' /proc/cpuinfo)"
  echo "memory_gib=$(awk '/^MemTotal:/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo)"
  echo "kernel=$(uname -r)"
  echo "disk=$(df --output=source,fstype "$BENCH" | tail -n 1 | tr -s ' ')"
  echo "load_before=$(cut -d ' ' -f 1-3 /proc/loadavg)"
  echo "commit=$(git -C "$TOP" describe --always --dirty 2>/dev/null || echo unknown)"
  echo "nodes=$nodes"
  echo "spread=$spread"
}

base_of() { if [ "$1" = warren ]; then echo "$WARREN_AMQP_BASE"; else echo "$RABBITMQ_BASE"; fi; }

# The processes that listen on a broker's ports, node by node.
pids_of() {
  local base n
  base=$(base_of "$1")
  for n in $(seq 0 $((nodes - 1))); do
    ss -Hltnp "sport = :$((base + n))" | grep -oP 'pid=\K[0-9]+' | sort -u | head -n 1 || true
  done
}

# start BROKER: an empty cluster, and nothing else that would be measured too.
start() {
  local other busy
  for other in warren rabbitmq; do
    [ -n "$(pids_of $other)" ] || continue
    busy="Something listens on port $(base_of $other) or one of the next"
    [[ " ${brokers[*]} " != *" $other "* ]] || die "$busy: stop it, it would be measured too."
    say "$busy: what it does takes from what is measured."
  done
  running=$1
  if [ "$1" = warren ]; then
    rm -rf "$WARREN_CLUSTER_DIR"
    WARREN_NODES=$nodes "$TOP/deploy/cluster.sh" up
  else
    bash "$RABBITMQ" up "$nodes"
  fi >>"$out/runs/log" 2>&1 || die "$1 did not start: $out/runs/log"
  [ "$(pids_of "$1" | wc -l)" -eq "$nodes" ] || die "$1 has not $nodes nodes on 127.0.0.1:$(base_of "$1") and the next"
}

stop() {
  if [ "$1" = warren ]; then
    [ ! -d "$WARREN_CLUSTER_DIR" ] || "$TOP/deploy/cluster.sh" down
    rm -rf "$WARREN_CLUSTER_DIR"
  else
    bash "$RABBITMQ" down
  fi >>"$out/runs/log" 2>&1 || die "$1 did not stop: $out/runs/log"
  running=''
}

# shellcheck disable=SC2317 # the trap calls it
cleanup() {
  local status=$?
  trap - EXIT INT TERM
  [ -z "$running" ] || (stop "$running") || true
  exit "$status"
}

# perf FILE OPTION...: one run against $broker; its result goes to FILE.json, or its error stays in FILE.err.
perf() {
  local file=$1 base n pid options=()
  shift
  base=$(base_of "$broker")
  for n in $(seq 0 $((nodes - 1))); do
    options+=(--uri "amqp://guest:guest@127.0.0.1:$((base + n))")
    [ "$spread" = 1 ] || break
  done
  for pid in $(pids_of "$broker"); do options+=(--watch "$pid"); done
  if ! "$PERF" "${options[@]}" --quiet --json "$file.json" "$@" >"$file.txt" 2>"$file.err"; then
    # shellcheck disable=SC2034 # as above
    failed=1
    rm -f "$file.json"
    say "   failed: $(tail -n 1 "$file.err")"
    return
  fi
  sed 's/^/   /' "$file.txt" >&2
  rm -f "$file.txt"
  [ -s "$file.err" ] || rm -f "$file.err"
}
