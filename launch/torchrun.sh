#!/usr/bin/env bash
# Train on this host with plain torchrun, with one process per GPU.
#
#   launch/torchrun.sh CONFIG [section.key=value …]
#
#   GPUS        number of processes (default: one per GPU; 2 without GPUs)
#   PET_…       any option of torchrun: PET_MAX_RESTARTS=3 restarts the ranks after a failure
#
# On Ctrl-C, SIGTERM and SIGUSR1 it saves, writes stopped.json to the run directory and stops. A second signal ends it
# immediately. The same command resumes it. torchrun's exit code is 0 for a finished run, and 1 otherwise.
set -euo pipefail
# shellcheck source=launch/host.sh
. "$(dirname "$0")/host.sh"

check torchrun "$@"
share_host

# torchrun forwards the signals, SIGUSR1 only if it is listed, and kills ranks that have not saved in this time. (With
# torch 2.11 it always kills them after 30 seconds.)
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${SAVE_SECONDS:-300}"
exec torchrun --standalone --nproc-per-node "$GPUS" \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 -m gpt2dist train "$@"
