#!/usr/bin/env bash
# preprocess-web: preprocessing
# Written by `gpt2dist submit`. To run it by hand: bash /data/web.submission/001/job.sh
# SIGTERM stops it; finished work is kept, and the next start resumes.
set -euo pipefail
cd /home/me
export NCCL_SOCKET_IFNAME=ib0
export NOTE='it'"'"'s mine'
exec /home/me/.venv/bin/python -m gpt2dist preprocess 'dumps/*.jsonl' --tokenizer gpt2 --output /data/web
