#!/usr/bin/env bash
# gpt2-124m: training on 1 × 8 = 8 ranks (nodes × GPUs)
# Written by `gpt2dist submit`. To run it by hand: bash /home/me/runs/gpt2-124m/submission/001/job.sh
# SIGTERM stops it; finished work is kept, and the next start resumes.
set -euo pipefail
cd /home/me
export NCCL_SOCKET_IFNAME=ib0
export NOTE='it'"'"'s mine'
exec /home/me/.venv/bin/python -m gpt2dist launch --nproc-per-node 8 train /home/me/runs/gpt2-124m/submission/001/config.yaml
