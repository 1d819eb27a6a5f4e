#!/usr/bin/env bash
# Training on several hosts with plain torchrun. To be started on every one of them, with its own NODE_RANK:
#
#   NODES=2 NODE_RANK=0 MASTER_ADDR=host0 launch/torchrun-nodes.sh CONFIG [section.key=value …]
#   NODES=2 NODE_RANK=1 MASTER_ADDR=host0 launch/torchrun-nodes.sh CONFIG [section.key=value …]
#
#   NODES         number of hosts
#   NODE_RANK     this one: 0 … NODES-1; 0 is the one that MASTER_ADDR names
#   MASTER_ADDR   name or address of host 0, as the others see it
#   MASTER_PORT   a free port there (default: 29500)
#   GPUS          processes on this host (default: all its GPUs; 2 where there is none)
#   PET_…         any option of torchrun, as PET_RDZV_CONF=timeout=60: seconds to wait for the other hosts (default: 900)
#
# The hosts share the run directory. SIGTERM or SIGUSR1 on one of them stops all with everything saved. When
# a host or its network is gone the others end, after run.timeout_seconds at the latest; to go on from the newest
# checkpoint start all of them again. torchrun's exit code is 0 for a run that is done, and 1 for everything else.
set -euo pipefail
# shellcheck source=launch/host.sh
. "$(dirname "$0")/host.sh"

check torchrun "$@"
for name in NODES NODE_RANK MASTER_ADDR; do
  [ -n "${!name:-}" ] || fail "$name is not set; NODES=2 NODE_RANK=0 MASTER_ADDR=host0 ${0##*/} CONFIG, and so on every host"
done
at_least 1 NODES
at_least 0 NODE_RANK
[ "$NODE_RANK" -lt "$NODES" ] || fail "NODE_RANK=$NODE_RANK: the hosts are numbered 0 … $((NODES - 1)), since NODES=$NODES"
share_host

# With fixed numbers instead of a c10d rendezvous, which goes by the clocks of the hosts and may begin without some,
# and whose launchers hang when the first host is cut off.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${SAVE_SECONDS:-300}" # torch 2.11 waits 30 seconds whatever this says
exec torchrun --nnodes "$NODES" --node-rank "$NODE_RANK" --nproc-per-node "$GPUS" \
  --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" --max-restarts 0 \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
  -m gpt2dist train "$@"
