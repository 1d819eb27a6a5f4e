#!/usr/bin/env bash
# Train with DeepSpeed's launcher, on this host or on those of a hostfile (lines such as `host0 slots=8`).
#
#   launch/deepspeed.sh CONFIG [section.key=value …]                              this host
#   HOSTFILE=hosts launch/deepspeed.sh CONFIG [section.key=value …]               on every host of the file
#   HOSTFILE=hosts SSH=1 launch/deepspeed.sh CONFIG [section.key=value …]         once; needs pdsh, and ssh without a password
#
#   HOSTFILE      the hosts, in the order of their ranks; they share the run directory
#   SSH           1: DeepSpeed starts the other hosts
#   NODE_RANK     line of this host in HOSTFILE, from 0 (default: the line with its name)
#   MASTER_ADDR   the first host, as the others see it (default: its name in HOSTFILE)
#   MASTER_PORT   a free port there (default: 29500)
#   GPUS          without HOSTFILE: number of processes (default: one per GPU; 2 without GPUs)
#
# SIGTERM or SIGUSR1 on one host: all hosts save, write stopped.json to the run directory and exit with 0. Ctrl-C does the
# same, and exits with 130. A second signal ends the run immediately. With SSH=1, DeepSpeed would end the ranks before they
# save: signal a rank instead, such as the one whose pid is in RUN/lock.
set -euo pipefail
# shellcheck source=launch/host.sh
. "$(dirname "$0")/host.sh"

# Print the hosts of the file, one per line.
hosts() { sed 's/#.*//' "$HOSTFILE" | awk 'NF { print $1 }'; }

# Print the line number of this host, from 0.
own_line() {
  hosts | awk -v names="$(hostname) $(hostname -s) $(hostname -I 2>/dev/null)" '
    BEGIN { split(names, list); for (i in list) mine[list[i]] }
    $1 in mine { print NR - 1; exit }'
}

check deepspeed "$@"
options=(--master_port "${MASTER_PORT:-29500}")
if [ -z "${HOSTFILE:-}" ]; then
  share_host
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then # with --num_gpus, DeepSpeed would ignore it and use the first GPUs
    [[ $CUDA_VISIBLE_DEVICES =~ ^[0-9]+(,[0-9]+)*$ ]] ||
      fail "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES: DeepSpeed's launcher takes only numbers; write those, or use launch/torchrun.sh"
    options+=(--include "localhost:$(cut -d, -f"1-$GPUS" <<<"$CUDA_VISIBLE_DEVICES")")
  else
    options+=(--num_gpus "$GPUS")
  fi
else
  [ -f "$HOSTFILE" ] || fail "HOSTFILE=$HOSTFILE: no such file; write lines such as: host0 slots=8"
  count=$(hosts | wc -l)
  options+=(--hostfile "$HOSTFILE" --master_addr "${MASTER_ADDR:-$(hosts | head -n1)}")
  if [ -n "${SSH:-}" ]; then
    command -v pdsh >/dev/null || fail "SSH=1 needs pdsh; without it, start this on every host of $HOSTFILE"
    exec deepspeed "${options[@]}" --module gpt2dist train "$@"
  fi
  : "${NODE_RANK:=$(own_line)}"
  [ -n "$NODE_RANK" ] || fail "$(hostname) is not in $HOSTFILE; set NODE_RANK to the line of this host, from 0"
  at_least 0 NODE_RANK
  [ "$NODE_RANK" -lt "$count" ] || fail "NODE_RANK=$NODE_RANK: $HOSTFILE has $count hosts, numbered from 0"
  options+=(--no_ssh --node_rank "$NODE_RANK")
fi

# When signalled, DeepSpeed's launcher does not signal its ranks, or kills them after 30 seconds. So signal them here, or
# the launcher before it has started them. Job control gives DeepSpeed a process group of its own, which Ctrl-C spares.
set -m
deepspeed "${options[@]}" --module gpt2dist train "$@" &
launcher=$! interrupted=""
stop() { pkill "-$1" --parent "$(pgrep --parent "$launcher" | paste -sd,)" 2>/dev/null || kill -TERM -- "-$launcher" || true; }
trap 'stop TERM' TERM HUP
trap 'interrupted=1; stop INT' INT
trap 'stop USR1' USR1
while kill -0 "$launcher" 2>/dev/null; do # a signal also ends a wait
  wait "$launcher" || true
done
[ -z "$interrupted" ] || exit 130
wait "$launcher"
