#!/usr/bin/env bash
# golden: training on 1 × 2 = 2 ranks (nodes × GPUs)
# Made by `gpt2dist submit`. By hand: bash /srv/golden/run/submission/001/job.sh
# SIGTERM stops it with what is done kept; started again, it goes on.
set -euo pipefail
cd /srv/golden

exec /opt/gpt2dist/.venv/bin/python -m gpt2dist launch --nproc-per-node 2 train /srv/golden/run/submission/001/config.yaml
