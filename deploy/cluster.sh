#!/usr/bin/env bash
# A Warren cluster on this machine, of three nodes unless told otherwise, for trying and testing.
#   cluster.sh up          build, start, and wait until it serves clients
#   cluster.sh down        stop all nodes in order; their data stays
#   cluster.sh status      which nodes run, and what they say of the cluster
#   cluster.sh kill N      SIGKILL node N
#   cluster.sh start N     start node N again
#   cluster.sh join        start one more node, which joins the cluster
#   cluster.sh logs N [-f] the end of node N's log (-f: and what follows)
#   cluster.sh ctl ARGS... warrenctl, on a node that runs
# WARREN_CLUSTER_DIR (.cluster): data, logs, the cluster's secret. Delete it to begin anew.
# WARREN_BIN: a directory with warren and warrenctl to run, instead of building them.
# WARREN_NODES (3): how many nodes a new cluster has, 1 to 9.
# WARREN_AMQP_BASE (5672), WARREN_CLUSTER_BASE (7101): the first of so many ports each, on 127.0.0.1.
# WARREN_TLS_BASE: the first port for clients with TLS (5671, say); a new cluster then has certificates in DIR/tls, asks
# clients for theirs, and its nodes talk with TLS as well. Unset: no TLS.
set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=prepare.sh
. "$TOP/deploy/prepare.sh"

DIR=$(realpath -m "${WARREN_CLUSTER_DIR:-$TOP/.cluster}")
AMQP_BASE=${WARREN_AMQP_BASE:-5672}
CLUSTER_BASE=${WARREN_CLUSTER_BASE:-7101}
# A cluster that is there keeps its size.
TLS_BASE=${WARREN_TLS_BASE:-}
SIZE=$(compgen -G "$DIR/node*/warren.toml" | wc -l || true)
if [ "$SIZE" -eq 0 ]; then
  SIZE=${WARREN_NODES:-3}
  [[ $SIZE =~ ^[1-9]$ ]] || die "WARREN_NODES is $SIZE: 1 to 9 nodes"
elif [ -n "${WARREN_NODES:-}" ] && [ "$WARREN_NODES" != "$SIZE" ]; then
  die "The cluster in $DIR has $SIZE nodes, and WARREN_NODES says $WARREN_NODES"
fi
mapfile -t NODES < <(seq "$SIZE")
BIN=${WARREN_BIN:-${CARGO_TARGET_DIR:-$HOME/.cache/warren-target}/dist}
READY_S=120
STOP_S=30

# These would override what each node's file says.
unset WARREN_NODE WARREN_NODE_NAME WARREN_NODE_DATA_DIR WARREN_AMQP_LISTEN WARREN_CLUSTER_NAME WARREN_CLUSTER_LISTEN \
  WARREN_CLUSTER_SEEDS WARREN_CLUSTER_SECRET WARREN_CLUSTER_SECRET_FILE RABBITMQ_NODENAME

tls_port() { echo $((TLS_BASE + $1 - 1)); }
amqp_port() { echo $((AMQP_BASE + $1 - 1)); }
cluster_port() { echo $((CLUSTER_BASE + $1 - 1)); }
file_of() { echo "$DIR/node$1/warren.toml"; }

# The process of node N, if it runs: the pid from its file, and only if that is a warren with this node's file.
pid_of() {
  local pid exe
  pid=$(cat "$DIR/node$1/pid" 2>/dev/null) && [[ $pid =~ ^[0-9]+$ ]] || return 1
  exe=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 1
  exe=${exe% (deleted)}
  [ "${exe##*/}" = warren ] || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "$(file_of "$1")" || return 1
  echo "$pid"
}

ctl_of() { local n=$1; shift; "$BIN/warrenctl" --config "$(file_of "$n")" "$@"; }

# The first node that runs.
any_node() {
  local n
  for n in "${NODES[@]}"; do
    if pid_of "$n" >/dev/null; then echo "$n"; return; fi
  done
  die "No node of $DIR runs: $0 up"
}

# An authority, a certificate for all nodes, and one for a client called guest: DIR/tls/{ca,node,client}.{pem,key}
make_certificates() {
  local tls=$DIR/tls who
  [ ! -s "$tls/client.pem" ] || return 0
  mkdir -p "$tls"
  (
    umask 077
    cd "$tls"
    quietly openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=warren-ca -keyout ca.key -out ca.pem
    for who in node client; do
      quietly openssl req -newkey rsa:2048 -nodes -subj "/O=warren/CN=$([ $who = node ] && echo localhost || echo guest)" \
        -keyout $who.key -out $who.csr
      printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' >$who.ext
      quietly openssl x509 -req -days 3650 -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile $who.ext \
        -out $who.pem
      rm -f $who.csr $who.ext
    done
  ) || die "The certificates in $tls could not be made"
}

quietly() { "$@" >/dev/null 2>>"$DIR/tls/openssl.log"; }

write_files() {
  local n seeds=
  mkdir -p "$DIR"
  [ -z "$TLS_BASE" ] || make_certificates
  for n in "${NODES[@]}"; do seeds+="${seeds:+, }\"warren$n=127.0.0.1:$(cluster_port "$n")\""; done
  mkdir -p "$DIR"
  if [ ! -s "$DIR/secret" ]; then
    (umask 077; head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$DIR/secret")
  fi
  for n in "${NODES[@]}"; do
    mkdir -p "$DIR/node$n"
    cat >"$(file_of "$n")" <<FILE
# Written by deploy/cluster.sh; every option stands in deploy/warren.toml.
[node]
name = "warren$n"
data_dir = "$DIR/node$n/data"
[cluster]
listen = "127.0.0.1:$(cluster_port "$n")"
seeds = [$seeds]
join = $([ "$n" = "${JOINING:-}" ] && echo true || echo false)
secret_file = "$DIR/secret"
$([ -z "$TLS_BASE" ] || printf 'tls_cert_file = "%s"\ntls_key_file = "%s"\ntls_ca_file = "%s"' \
  "$DIR/tls/node.pem" "$DIR/tls/node.key" "$DIR/tls/ca.pem")
[amqp]
listen = ["127.0.0.1:$(amqp_port "$n")"]
$([ -z "$TLS_BASE" ] || cat <<TLS
[tls]
listen = ["127.0.0.1:$(tls_port "$n")"]
cert_file = "$DIR/tls/node.pem"
key_file = "$DIR/tls/node.key"
ca_file = "$DIR/tls/ca.pem"
verify_peer = true
cert_login_from = "common_name"
TLS
)
FILE
  done
}

# A node that was killed may hold its ports for a moment after its first thread has ended.
check_port() {
  local until=$((SECONDS + 5))
  while (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && [ $SECONDS -lt $until ]; do sleep 0.1; done
  if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then
    local who; who=$(ss -Hltnp "sport = :$1" 2>/dev/null | grep -oE 'users:.*' | head -n 1 || true)
    die "Port $1 is in use${who:+ by $who}. Stop what listens there, or set $2 to the first of $SIZE free ports."
  fi
}

check_ports() {
  check_port "$(amqp_port "$1")" WARREN_AMQP_BASE
  check_port "$(cluster_port "$1")" WARREN_CLUSTER_BASE
  [ -z "$TLS_BASE" ] || check_port "$(tls_port "$1")" WARREN_TLS_BASE
}

launch() {
  local n=$1
  ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
  setsid "$BIN/warren" --config "$(file_of "$n")" >>"$DIR/node$n/log" 2>&1 </dev/null &
  echo $! >"$DIR/node$n/pid"
}

await() {
  local n=$1 until=$((SECONDS + READY_S)) why=
  while [ $SECONDS -lt $until ]; do
    if why=$(ctl_of "$n" -q -t 2 await_startup 2>&1); then return; fi
    if ! pid_of "$n" >/dev/null; then
      tail -n 20 "$DIR/node$n/log" >&2
      if tail -n 20 "$DIR/node$n/log" | grep -q 'its cluster goes on without it'; then
        die "Node $n was forgotten or given up by its cluster: delete $DIR/node$n, then $0 up"
      fi
      die "Node $n ended; its log is $DIR/node$n/log"
    fi
  done
  tail -n 20 "$DIR/node$n/log" >&2
  die "Node $n is not ready after $READY_S s: $why"
}

# Whether the process ends within so many seconds.
ends() {
  local pid=$1 until=$((SECONDS + $2))
  while [ -d "/proc/$pid" ]; do
    # A process whose parent has not looked yet has ended all the same.
    ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null || return 0
    [ $SECONDS -lt $until ] || return 1
    sleep 0.1
  done
}

number() {
  if ! [[ ${1:-} =~ ^[1-9]$ ]] || [ "$1" -gt "$SIZE" ]; then die "Which node? 1 to $SIZE"; fi
  echo "$1"
}

up() {
  if [ -z "${WARREN_BIN:-}" ]; then
    build_programs
  fi
  write_files
  local n
  for n in "${NODES[@]}"; do pid_of "$n" >/dev/null || check_ports "$n"; done
  for n in "${NODES[@]}"; do pid_of "$n" >/dev/null || launch "$n"; done
  for n in "${NODES[@]}"; do await "$n"; done
  cat <<TEXT
The cluster is ready. AMQP 0-9-1 (guest/guest), at any node:
$(for n in "${NODES[@]}"; do echo "  amqp://guest:guest@127.0.0.1:$(amqp_port "$n")"; done)
$([ -z "$TLS_BASE" ] || for n in "${NODES[@]}"; do echo "  amqps://guest:guest@localhost:$(tls_port "$n")"; done)
Look into it:       deploy/cluster.sh ctl list_queues name messages_ready messages_unacknowledged
Kill a node:        deploy/cluster.sh kill 1      and start it again: deploy/cluster.sh start 1
Stop it:            deploy/cluster.sh down        Logs: deploy/cluster.sh logs 1
TEXT
}

join() {
  local n=$((SIZE + 1))
  [ "$n" -le 9 ] || die "The cluster in $DIR has $SIZE nodes, and no more fit"
  any_node >/dev/null
  check_ports "$n"
  NODES+=("$n")
  JOINING=$n write_files
  launch "$n"
  await "$n"
  say "Node $n has joined the cluster: AMQP on 127.0.0.1:$(amqp_port "$n")"
}

down() {
  local n pid pids=() late=0
  for n in "${NODES[@]}"; do
    if pid=$(pid_of "$n"); then
      kill -TERM "$pid" 2>/dev/null || true
      pids+=("$n:$pid")
    else
      rm -f "$DIR/node$n/pid"
    fi
  done
  for n in "${pids[@]}"; do
    pid=${n#*:} n=${n%%:*}
    if ! ends "$pid" "$STOP_S"; then
      say "Node $n did not end within $STOP_S s, and is killed."
      kill -KILL "$pid" 2>/dev/null || true
      ends "$pid" 5 || say "Process $pid is still there."
      late=1
    fi
    rm -f "$DIR/node$n/pid"
  done
  say "${#pids[@]} nodes stopped; their data is in $DIR"
  return $late
}

status() {
  local n pid
  for n in "${NODES[@]}"; do
    if pid=$(pid_of "$n"); then echo "node $n: pid $pid, AMQP 127.0.0.1:$(amqp_port "$n")"; else echo "node $n: down"; fi
  done
  n=$(any_node)
  ctl_of "$n" cluster_status
}

case ${1:-} in
  up) up ;;
  join) join ;;
  down) down ;;
  status) status ;;
  kill)
    n=$(number "${2:-}")
    pid=$(pid_of "$n") || die "Node $n does not run"
    kill -KILL "$pid"
    ends "$pid" 10 || die "Process $pid is still there"
    rm -f "$DIR/node$n/pid" ;;
  start)
    n=$(number "${2:-}")
    [ -e "$(file_of "$n")" ] || die "There is no cluster in $DIR: $0 up"
    if ! pid_of "$n" >/dev/null; then
      check_ports "$n"
      launch "$n"
    fi
    await "$n" ;;
  logs)
    n=$(number "${2:-}")
    tail -n 100 ${3:+-F} "$DIR/node$n/log" ;;
  ctl)
    shift
    n=$(any_node)
    ctl_of "$n" "$@" ;;
  *)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 64 ;;
esac
