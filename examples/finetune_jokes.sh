#!/usr/bin/env bash
# Fine-tune a GPT-2 on short texts: JSON lines such as {"text": "I used to be a banker, but I lost interest."}.
#
#   examples/finetune_jokes.sh [jokes.jsonl] [MODEL] [DIRECTORY] [section.key=value …]
#
# MODEL is a name on the Hugging Face hub, a model directory, a run or a checkpoint. The preset is for about 1 million
# tokens on a GPU of 8 GB; on a CPU add precision=fp32. PROMPT is the start of the samples. Run it again to resume.
set -euo pipefail
jokes=${1:-jokes.jsonl} model=${2:-openai-community/gpt2} home=${3:-runs/jokes} overrides=("${@:4}")
prompt=${PROMPT:-I used to}

# The tokenizer of the model: its ids are those that the model knows.
gpt2dist preprocess "$jokes" --tokenizer "$model" --deduplicate --val-fraction 0.1 --output "$home/dataset"

# How surprising the jokes are to the model as it is. Each one is scored by itself, without its neighbours.
gpt2dist evaluate "$model" --data "$home/dataset" --document-boundaries isolate --output "$home/before.json"

# Many jokes share a window, so that there is no padding; `isolate` keeps them from attending to each other.
[ -f "$home/run.yaml" ] || gpt2dist init finetune-gpt2 --output "$home/run.yaml"
gpt2dist launch train "$home/run.yaml" run.name=jokes "run.output_dir=$home/run" "model.init_from=$model" \
  "data.train=[{path: $home/dataset}]" "data.validation=[{name: held-out, path: $home/dataset}]" \
  data.document_boundaries=isolate "${overrides[@]}"

# The checkpoint with the lowest held-out loss, which need not be the last, measured as before.
best=$home/run/checkpoints/best
gpt2dist evaluate "$best" --data "$home/dataset" --document-boundaries isolate --output "$home/after.json"

# Sampling. A lower temperature is more cautious. top-k and top-p leave out unlikely tokens. A penalty above 1 avoids
# repetition. The seed makes it repeatable. Greedy decoding (temperature 0) always gives the same text.
gpt2dist generate "$best" --prompt "$prompt" --temperature 0 --max-new-tokens 40
gpt2dist generate "$best" --prompt "$prompt" --temperature 0.8 --top-k 50 --top-p 0.9 --repetition-penalty 1.2 \
  --seed 1 --num-samples 3 --max-new-tokens 40 --json >"$home/samples.jsonl"
cat "$home/samples.jsonl"
