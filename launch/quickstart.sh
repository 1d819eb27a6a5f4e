#!/usr/bin/env bash
# The whole pipeline on real text: corpus → tokenizer → shards → training → checkpoint → perplexity → text.
# `make quickstart` runs it, and you can also run each command by hand. A second run does only what is missing.
#
#   launch/quickstart.sh [FILE | DIRECTORY | GLOB …]      default: the standard library of this Python
#   PROMPT="Once upon" launch/quickstart.sh 'books/*.txt'   the start of the sample (default: "def main(")
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
# Your own text gets its own name, so that several runs do not overwrite each other.
name=quickstart
[ $# -eq 0 ] || name=quickstart-$(printf '%s\n' "$@" | cksum | cut -d' ' -f1)
say() { printf '\n\033[1m── %s\033[0m\n' "$*" >&2; }

# Use all GPUs, or two processes that share the cores of the CPU.
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
processes=$((gpus > 0 ? gpus : 2))
launch() { gpt2dist launch --nproc-per-node "$processes" "$@"; }

# bf16 if the device supports it, otherwise fp32.
precision=fp32
if [ "$gpus" -gt 0 ]; then
  precision=$(python -c 'from gpt2dist.distributed.gpu import supports_bf16; print("bf16" if supports_bf16() else "fp32")')
elif grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null; then
  precision=autocast_bf16
fi

say "1/6 corpus"
python tools/make_corpus.py "data/$name.jsonl" "$@"

say "2/6 tokenizer: byte-level BPE"
gpt2dist tokenizer train "data/$name.jsonl" --vocab-size 2048 --output "data/$name-tokenizer"

say "3/6 token shards, 5 % of the documents held out"
gpt2dist preprocess "data/$name.jsonl" --tokenizer "data/$name-tokenizer" --val-fraction 0.05 --output "data/$name"

say "4/6 training on $processes processes with ZeRO"
launch train configs/quickstart.yaml "run.name=$name" "run.output_dir=runs/$name" precision="$precision" \
  "data.train=[{path: data/$name}]" "data.validation=[{name: held-out, path: data/$name}]" \
  batch.global_batch_size=$((4 * processes))

say "5/6 perplexity of the held-out documents, on $processes processes"
launch evaluate "runs/$name" --data "data/$name" --prefix end-of-text --output "runs/$name/evaluation.json"

say "6/6 a sample"
gpt2dist generate "runs/$name" --prompt "${PROMPT:-def main(}" --max-new-tokens 120 --temperature 0.8 \
  --repetition-penalty 1.1 --seed 1 > "runs/$name/sample.txt"

say "Done"
python tools/quickstart_report.py "runs/$name" "data/$name" "runs/$name/evaluation.json" "runs/$name/sample.txt"
