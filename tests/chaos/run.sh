#!/usr/bin/env bash
# Five nodes in network namespaces of their own, partitioned while clients publish and consume; then everything that was
# confirmed must have been delivered.
#   run.sh [--configurations LIST] [--partition-s S] [--seconds S] [--seed N] [--keep DIR]
# LIST: numbers or ranges of the table in chaos.py, such as 1-14 (run.sh --list shows it); default 2,6,12.
# --partition-s (5): how long each partition lasts; in between all is whole for as long. --seconds (30): of each
# configuration. --seed: of what is random; told at the beginning. --keep: leaves the nodes' logs there.
# Ends with a line `N passed, N failed`. Must run as root: it makes namespaces, a bridge and packet filters, and removes them.
# WARREN_BIN: a directory with warren and warrenctl to run, instead of building them.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source-path=SCRIPTDIR source=../../deploy/prepare.sh
. "$TOP/deploy/prepare.sh"

case ${1:-} in -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
[ "$(id -u)" -eq 0 ] || die "It needs root for network namespaces"
# shellcheck disable=SC2046 # a list of words
install $(missing python3 python3; missing ip iproute2; missing iptables iptables; missing ping iputils-ping)
if [ -z "${WARREN_BIN:-}" ]; then
  build_programs
  export WARREN_BIN=$CARGO_TARGET_DIR/dist
fi
clients=${WARREN_CHAOS_DIR:-$HOME/.cache/warren-chaos}/python
if ! "$clients/bin/python" -c 'import pika' 2>/dev/null; then
  say "Installing pika ..."
  log=$(mktemp)
  { { python3 -m venv "$clients" || { install python3-venv && python3 -m venv "$clients"; }; } &&
    "$clients/bin/pip" install -q pika==1.3.2; } >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "Could not install pika"; }
  rm -f "$log"
fi
exec "$clients/bin/python" "$TOP/tests/chaos/chaos.py" "$@"
