#!/usr/bin/env bash
# Every suite, or those named: tests/run.sh [unit] [fuzz] [simulation] [conformance] [interop] [durability] [chaos]
#   unit         tests inside the crates, and suites that need no cluster
#   fuzz         the AMQP codec against made-up bytes, for FUZZ_S (20) seconds
#   simulation   the cluster's cores in one thread each, from a seed: SIMULATION_SEEDS (5,000) of them, the same ones each
#                time, or as many as fit in SIMULATION_S seconds
#   conformance  what any AMQP 0-9-1 client sees, asked over raw sockets of each of CONFORMANCE (single apart): a single
#                node; a cluster of three, in which clients talk to other nodes than those that lead what they use
#   interop      clients of several languages and ages against the same cluster
#   durability   what is confirmed survives nodes that are killed
#   chaos        and disks and clocks that fail, networks that fall apart: five nodes in network namespaces, which needs root
# Installs what is missing. Ends with each suite's counts and a line `N passed, N failed`; the status is 0 only if
# every suite ran and nothing failed. The cluster has a directory and ports (WARREN_AMQP_BASE, WARREN_CLUSTER_BASE) of
# its own, so that one started with deploy/cluster.sh is left alone. Logs of a failed run stay in the directory it names.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$TOP"
# shellcheck source-path=SCRIPTDIR source=../deploy/prepare.sh
. deploy/prepare.sh

ALL=(unit fuzz simulation conformance interop durability chaos)
# Test binaries that are suites of their own.
OWN=(simulation conformance durability machine)
FUZZ_S=${FUZZ_S:-20}
read -ra CONFORMANCE <<<"${CONFORMANCE:-single apart}"

case ${1:-} in -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
wanted=("$@")
[ $# -gt 0 ] || wanted=("${ALL[@]}")
for name in "${wanted[@]}"; do
  [[ " ${ALL[*]} " == *" $name "* ]] || { say "No such suite: $name. There are: ${ALL[*]}"; exit 64; }
done

for name in "${CONFORMANCE[@]}"; do
  [[ $name =~ ^(single|apart)$ ]] || { say "CONFORMANCE names single, apart or both, not $name"; exit 64; }
done

WORK=$(mktemp -d "${TMPDIR:-/tmp}/warren-tests.XXXXXX")
export WARREN_CLUSTER_DIR=$WORK/cluster
export WARREN_AMQP_BASE=${WARREN_AMQP_BASE:-25872} WARREN_CLUSTER_BASE=${WARREN_CLUSTER_BASE:-27101}
export WARREN_TLS_BASE=${WARREN_TLS_BASE:-$((WARREN_AMQP_BASE + 50))}
# What would change the clusters that are tested.
for name in $(compgen -v WARREN_); do
  case $name in
    WARREN_AMQP_BASE | WARREN_CLUSTER_BASE | WARREN_TLS_BASE | WARREN_CLUSTER_DIR | WARREN_CHAOS_DIR | WARREN_TEST_*) ;;
    *) unset "$name" ;;
  esac
done

passed=0 failed=0 summary=()

cleanup() {
  local status=$?
  trap - EXIT INT TERM
  [ ! -d "$WORK/single" ] || WARREN_CLUSTER_DIR=$WORK/single deploy/cluster.sh down >/dev/null 2>&1 || status=1
  [ ! -d "$WARREN_CLUSTER_DIR" ] || deploy/cluster.sh down >/dev/null 2>&1 || status=1
  if [ "$status" -eq 0 ]; then rm -rf "$WORK"; else say "Logs: $WORK"; fi
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# count LOG: "PASSED FAILED IGNORED", summed over cargo's results and lines such as `12 passed, 0 failed`.
count() {
  awk '
    /^test result: / {
      for (i = 2; i <= NF; i++) {
        if ($i ~ /^passed/) p += $(i - 1)
        if ($i ~ /^failed/) f += $(i - 1)
        if ($i ~ /^ignored/) n += $(i - 1)
      }
    }
    /^[0-9]+ passed, [0-9]+ failed/ { p += $1; f += $3 }
    END { print p + 0, f + 0, n + 0 }' "$1"
}

# record NAME STATUS LOG: takes a suite's counts into the sum. What failed without a failed test counts as one,
# and so does a suite of which nothing ran.
record() {
  local name=$1 status=$2 p f n note=
  read -r p f n < <(count "$3")
  if [ "$n" -gt 0 ]; then f=$((f + n)) note=" ($n not run)"; fi
  if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then f=1 note=" (ended with status $status)"; fi
  if [ "$p" -eq 0 ] && [ "$f" -eq 0 ]; then f=1 note=" (nothing ran)"; fi
  passed=$((passed + p)) failed=$((failed + f))
  summary+=("$(printf '%-18s %5d passed, %d failed%s' "$name" "$p" "$f" "$note")")
}

# suite NAME COMMAND...: runs it, shows its output, records its counts.
suite() {
  local name=$1 status=0 log=$WORK/$1.log
  shift
  say "== $name"
  "$@" 2>&1 </dev/null | tee "$log" || status=$?
  record "$name" "$status" "$log"
}

unit() {
  local targets=() target list
  list=$(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
for package in json.load(sys.stdin)["packages"]:
    for target in package["targets"]:
        if "test" in target["kind"]:
            print(target["name"])') || return
  for target in $list; do
    [[ " ${OWN[*]} " == *" $target "* ]] || targets+=(--test "$target")
  done
  cargo test --release --workspace --no-fail-fast --lib --bins "${targets[@]}"
}

fuzz() {
  local new=$WORK/corpus log=$WORK/fuzz-run.log
  command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz --target-dir "$CARGO_TARGET_DIR/tools" || return
  mkdir -p "$new"
  # The fuzzer's own flags need an unstable compiler; the stable one with its guard off will do.
  # New inputs go to the first directory, the seeds in the second are only read.
  RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$CARGO_TARGET_DIR/fuzz \
    cargo fuzz run --fuzz-dir broker/fuzz frame --sanitizer none "$new" broker/fuzz/corpus/frame \
    -- -max_total_time="$FUZZ_S" -artifact_prefix="$WORK/" -verbosity=0 -print_final_stats=1 2>&1 | tee "$log" || return
  local runs; runs=$(awk '/^stat::number_of_executed_units:/ { print $2 }' "$log")
  [ "${runs:-0}" -gt 0 ] && echo "1 passed, 0 failed"
}

simulation() {
  local -x SIMULATION_SEEDS=${SIMULATION_SEEDS:-5000}
  if [ -n "${SIMULATION_S:-}" ]; then unset SIMULATION_SEEDS; fi
  cargo test --release --workspace --no-fail-fast --test simulation -- --nocapture --test-threads=1
}

# Of the whole workspace, like the build: one package alone would get other features, and be built again.
# Cases wait more than they work.
conformance() { cargo test --release --workspace --no-fail-fast --test conformance -- --test-threads=4; }
durability() { cargo test --release --workspace --no-fail-fast --test durability; }
interop() { python3 tests/interop/run.py; }
chaos() {
  local status=0
  # shellcheck disable=SC2046 # a list of words
  install $(missing mkfs.ext4 e2fsprogs; missing mount mount; missing strace strace) || return
  cargo test --release --workspace --no-fail-fast --test machine || status=1
  tests/chaos/run.sh || status=1
  return "$status"
}

conformance-single() { conformance; }
conformance-apart() { WARREN_TEST_APART=1 conformance; }

# Starts the nodes that do not run, of as many as given or three, and tells the suites where they are.
cluster_up() {
  local nodes=${1:-3}
  if ! WARREN_NODES=$nodes deploy/cluster.sh up >"$WORK/up.log" 2>&1; then
    tail -n 30 "$WORK/up.log" >&2
    return 1
  fi
  local b=$WARREN_AMQP_BASE
  local t=$WARREN_TLS_BASE
  WARREN_TEST_AMQP=$(seq -s , -f '127.0.0.1:%.0f' "$b" $((b + nodes - 1)))
  WARREN_TEST_AMQPS=$(seq -s , -f 'localhost:%.0f' "$t" $((t + nodes - 1)))
  export WARREN_TEST_AMQP WARREN_TEST_AMQPS
  export WARREN_TEST_NODES=$TOP/deploy/cluster.sh
  export WARREN_TEST_CERTIFICATES=$WARREN_CLUSTER_DIR/tls
  export WARREN_TEST_CTL="$CARGO_TARGET_DIR/release/warrenctl --config $WARREN_CLUSTER_DIR/node1/warren.toml"
}

# live NAME [NODES]: a suite against the cluster. A node that died meanwhile is a failure of its own.
live() {
  if ! cluster_up "${2:-3}"; then
    echo "0 passed, 1 failed" >"$WORK/$1.log"
    record "$1" 1 "$WORK/$1.log"
    return
  fi
  suite "$1" "$1"
  local down; down=$(deploy/cluster.sh status 2>/dev/null | grep -E '^node [0-9]: down' || true)
  if [ -n "$down" ]; then
    say "$down"
    echo "0 passed, $(wc -l <<<"$down") failed" >"$WORK/$1-nodes.log"
    record "nodes" 1 "$WORK/$1-nodes.log"
  fi
}

# alone NAME: a suite against a single node beside the cluster.
alone() {
  local -x WARREN_CLUSTER_DIR=$WORK/single WARREN_AMQP_BASE=$((WARREN_AMQP_BASE + 10))
  local -x WARREN_CLUSTER_BASE=$((WARREN_CLUSTER_BASE + 10)) WARREN_TLS_BASE=$((WARREN_TLS_BASE + 10))
  live "$1" 1
  deploy/cluster.sh down >/dev/null 2>&1 || true
}

prepare_build
packages=$(missing python3 python3 openssl openssl)
# shellcheck disable=SC2086 # a list of words
install $packages
say "Building ..."
status=0
cargo build --release --workspace --bins --tests 2>&1 | tee "$WORK/build.log" || status=$?
if [ "$status" -ne 0 ]; then
  say "The build failed"
  echo "0 passed, ${#wanted[@]} failed"
  exit 1
fi
export WARREN_BIN=$CARGO_TARGET_DIR/release

for name in "${wanted[@]}"; do
  case $name in
    unit | fuzz | simulation | durability | chaos) suite "$name" "$name" ;;
    interop) live "$name" ;;
    conformance)
      for topology in "${CONFORMANCE[@]}"; do
        case $topology in
          single) alone conformance-single ;;
          apart) live conformance-apart ;;
        esac
      done ;;
  esac
done

echo
printf '%s\n' "${summary[@]}"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
