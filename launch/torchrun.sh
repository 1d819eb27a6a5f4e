#!/usr/bin/env bash
# Training on this host with plain torchrun: one process per GPU.
#
#   launch/torchrun.sh CONFIG [section.key=value …]
#
#   GPUS        processes (default: all GPUs of the host; 2 where there is none)
#   PET_…       any option of torchrun: PET_MAX_RESTARTS=3 starts the ranks again after a failure
#
# SIGTERM and SIGUSR1 stop it with everything saved and stopped.json in the run directory, Ctrl-C at once; started again,
# it goes on. torchrun's exit code is 0 for a run that is done, and 1 for everything else.
set -euo pipefail
# shellcheck source=launch/host.sh
. "$(dirname "$0")/host.sh"

check torchrun "$@"
share_host

# torchrun passes the signals on, SIGUSR1 only if told so, and kills ranks that have not saved by then. (That of torch
# 2.11 does so after 30 seconds whatever it is told.)
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${SAVE_SECONDS:-300}"
exec torchrun --standalone --nproc-per-node "$GPUS" \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 -m gpt2dist train "$@"
