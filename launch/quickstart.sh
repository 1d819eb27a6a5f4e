#!/usr/bin/env bash
# The whole pipeline on real text, in minutes: `gpt2dist quickstart`, with the environment of this checkout if it has
# one. `make quickstart` runs it. gpt2dist/quickstart/pipeline.py is the pipeline.
#
#   launch/quickstart.sh [FILE | DIRECTORY | GLOB …]      default: the standard library of this Python
#   PROMPT="Once upon" launch/quickstart.sh 'books/*.txt'   the start of the sample (default: "def main(")
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
exec gpt2dist quickstart ${PROMPT:+--prompt "$PROMPT"} "$@"
