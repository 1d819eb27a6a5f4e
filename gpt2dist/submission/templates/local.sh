#!/usr/bin/env bash
# {{title}}
# Made by `gpt2dist submit`. By hand: bash {{script}}
# SIGTERM stops it with what is done kept; started again, it goes on.
set -euo pipefail
cd {{directory}}
{{exports}}
exec {{python}} -m gpt2dist {{launch}}{{words}}
