#!/usr/bin/env bash
# preprocess-web: preprocessing
# Made by `gpt2dist submit`. By hand: bash /data/web.submission/001/job.sh
# SIGTERM stops it with what is done kept; started again, it goes on.
set -euo pipefail
cd /home/me
export NCCL_SOCKET_IFNAME=ib0
export NOTE='it'"'"'s mine'
exec /home/me/.venv/bin/python -m gpt2dist preprocess 'dumps/*.jsonl' --tokenizer gpt2 --output /data/web
