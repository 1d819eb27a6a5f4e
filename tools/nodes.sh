#!/usr/bin/env bash
# Two hosts on one machine, n1 and n2, to try what needs several: network and UTS namespaces, as root.
#
#   tools/nodes.sh up                      makes them
#   tools/nodes.sh on 1|2 COMMAND …        runs a command there; files and processes are those of this machine
#   tools/nodes.sh unplug 1|2              cuts its cable: nobody is told, packets are lost
#   tools/nodes.sh plug 1|2                mends it
#   tools/nodes.sh kill 1|2                the host is gone: everything that runs there, by SIGKILL
#   tools/nodes.sh join                    lets this machine talk to them, and prints its address there
#   tools/nodes.sh down                    kills what runs on them, and removes them
#
# GPT2DIST_NODES names them (default: gpt2dist), so that several pairs can be up at a time.
# GPT2DIST_OWN_ADDRESS is what a host's own name resolves to on it (Debian: 127.0.1.1; default: its address).
set -Eeuo pipefail

name=${GPT2DIST_NODES:-gpt2dist}
sum=$(printf %s "$name" | cksum)
net=10.77.$((${sum% *} % 256)) # pairs that this machine has joined must differ
bridge=$name-br
fail() { echo "nodes.sh: $*" >&2; exit 2; }

up() {
  [ "$(id -u)" = 0 ] || fail "needs root, for namespaces"
  local program
  for program in ip nsenter unshare; do
    command -v $program >/dev/null || fail "needs $program; on Debian or Ubuntu: apt-get install iproute2 util-linux"
  done
  [ ${#bridge} -le 15 ] || fail "GPT2DIST_NODES=$name: at most 12 letters, for the names of network devices"
  [ ! -e "/run/netns/$name-n1" ] || fail "$name-n1 is there already; take it down first: tools/nodes.sh down"
  trap down ERR
  ip link add "$bridge" type bridge
  ip link set "$bridge" up
  local i
  for i in 1 2; do
    ip netns add "$name-n$i"
    ip link add "$name-v$i" type veth peer name eth0 netns "$name-n$i"
    ip link set "$name-v$i" master "$bridge" up
    ip -n "$name-n$i" addr add "$net.1$i/24" dev eth0
    ip -n "$name-n$i" link set eth0 up
    ip -n "$name-n$i" link set lo up
  done
  trap - ERR
}

on() {
  local number=$1 hosts places=("$net.11" "$net.12")
  shift
  hosts=$(mktemp)
  places[number - 1]=${GPT2DIST_OWN_ADDRESS:-${places[number - 1]}}
  printf '127.0.0.1 localhost\n%s.1 %s\n%s n1\n%s n2\n' "$net" "$(hostname -s)" "${places[@]}" >"$hosts"
  chmod 644 "$hosts"
  # shellcheck disable=SC2016
  exec nsenter --net="/run/netns/$name-n$number" unshare --uts --mount bash -c \
    'mount --bind "$1" /etc/hosts; rm "$1"; hostname "$2"; shift 2; exec "$@"' node "$hosts" "n$number" "$@"
}

join() {
  ip addr add "$net.1/24" dev "$bridge"
  echo "$net.1"
}

unplug() { ip link set "$name-v$1" down; }
plug() { ip link set "$name-v$1" up; }

kill_all() {
  local pids
  pids=$(ip netns pids "$name-n$1")
  # shellcheck disable=SC2086
  [ -z "$pids" ] || kill -KILL $pids 2>/dev/null || true # one of them may have ended by itself
}

down() {
  trap - ERR
  local i
  for i in 1 2; do
    [ -e "/run/netns/$name-n$i" ] || continue
    kill_all $i
    ip netns del "$name-n$i"
    ip link del "$name-v$i" 2>/dev/null || true # it goes with its other end, a moment later
  done
  ip link del "$bridge" 2>/dev/null || true
}

usage() { fail "write up, down, join, on 1|2 COMMAND …, unplug 1|2, plug 1|2 or kill 1|2"; }
case "${1:-} ${2:-}" in
  "up " | "down " | "join ") "$1" ;;
  "on 1" | "on 2") [ $# -ge 3 ] || usage; "$@" ;;
  "unplug 1" | "unplug 2" | "plug 1" | "plug 2") "$1" "$2" ;;
  "kill 1" | "kill 2") kill_all "$2" ;;
  *) usage ;;
esac
