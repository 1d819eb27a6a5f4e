#!/usr/bin/env bash
# Train on several hosts with plain torchrun. Start it on each of them, with its own NODE_RANK:
#
#   NODES=2 NODE_RANK=0 MASTER_ADDR=host0 launch/torchrun-nodes.sh CONFIG [section.key=value …]
#   NODES=2 NODE_RANK=1 MASTER_ADDR=host0 launch/torchrun-nodes.sh CONFIG [section.key=value …]
#
#   NODES         number of hosts
#   NODE_RANK     number of this host: 0 … NODES-1; MASTER_ADDR is host 0
#   MASTER_ADDR   name or address of host 0, as the others see it
#   MASTER_PORT   a free port there (default: 29500)
#   GPUS          number of processes on this host (default: one per GPU; 2 without GPUs)
#   PET_…         any option of torchrun, such as PET_RDZV_CONF=timeout=60: seconds to wait for the other hosts (default: 900)
#
# The hosts share the run directory. On Ctrl-C, SIGTERM or SIGUSR1 on one host, all hosts save and stop. If a host or its network
# fails, the others end after run.timeout_seconds at the latest; start all hosts again to resume from the newest
# checkpoint. torchrun's exit code is 0 for a finished run, and 1 otherwise.
set -euo pipefail
# shellcheck source=launch/host.sh
. "$(dirname "$0")/host.sh"

check torchrun "$@"
for name in NODES NODE_RANK MASTER_ADDR; do
  [ -n "${!name:-}" ] || fail "$name is not set; on every host, set NODES, NODE_RANK and MASTER_ADDR: NODES=2 NODE_RANK=0 MASTER_ADDR=host0 ${0##*/} CONFIG"
done
at_least 1 NODES
at_least 0 NODE_RANK
[ "$NODE_RANK" -lt "$NODES" ] || fail "NODE_RANK=$NODE_RANK: the hosts are numbered 0 … $((NODES - 1)), since NODES=$NODES"
share_host

# Fixed numbers instead of a c10d rendezvous: c10d depends on the clocks of the hosts, may start without some of them,
# and its launchers hang when the first host is cut off.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${SAVE_SECONDS:-300}" # torch 2.11 ignores this and waits 30 seconds
exec torchrun --nnodes "$NODES" --node-rank "$NODE_RANK" --nproc-per-node "$GPUS" \
  --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" --max-restarts 0 \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
  -m gpt2dist train "$@"
