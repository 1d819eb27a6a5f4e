#!/usr/bin/env bash
# Pretrain a GPT-2 from nothing on articles: JSON lines such as {"text": "Anarchism is a political philosophy …"}.
#
#   examples/pretrain_jsonl.sh [articles.jsonl] [DIRECTORY] [section.key=value …]
#
# PRESET=gpt2-124m trains GPT-2's smallest size instead of a model for a CPU; VOCAB=32768 makes a larger vocabulary;
# PROMPT is the start of the samples. `gpt2dist init` lists the presets. Run it again to resume.
set -euo pipefail
articles=${1:-articles.jsonl} home=${2:-runs/pretrain} overrides=("${@:3}")
run=$home/run prompt=${PROMPT:-The}

# A tokenizer of this text, so that common words are one token.
gpt2dist tokenizer train "$articles" --vocab-size "${VOCAB:-4096}" --output "$home/tokenizer"

# The articles as tokens, each equal text once. One in twenty is held out.
gpt2dist preprocess "$articles" --tokenizer "$home/tokenizer" --deduplicate --val-fraction "${HELD_OUT:-0.05}" \
  --output "$home/dataset"

# A configuration to edit. Settings after its name, as here the paths, have precedence over the file.
[ -f "$home/run.yaml" ] || gpt2dist init "${PRESET:-quickstart}" --output "$home/run.yaml"
settings=(
  run.name=pretrain "run.output_dir=$run"
  "data.train=[{path: $home/dataset}]"
  "data.validation=[{name: held-out, path: $home/dataset}]"
  "monitoring.samples.prompts=[$prompt]"
  "${overrides[@]}"
)

# What the run will need and do, before it starts.
gpt2dist validate "$home/run.yaml" "${settings[@]}"

# Train, on all GPUs of this machine or else on its CPU.
gpt2dist launch train "$home/run.yaml" "${settings[@]}"

# How well it predicts the held-out articles.
gpt2dist evaluate "$run" --data "$home/dataset" --output "$home/evaluation.json"

# What it writes, and the whole run as one page.
gpt2dist generate "$run" --prompt "$prompt" --num-samples 2 --max-new-tokens 60
gpt2dist report "$run" --output "$home/report.html"
