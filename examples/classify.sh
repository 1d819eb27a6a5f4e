#!/usr/bin/env bash
# Turn a trained model into a classifier, from JSON lines such as {"text": "what a film", "label": "good"}.
#
#   examples/classify.sh [labelled.jsonl] [MODEL] [DIRECTORY]
#
# MODEL is a run, a checkpoint, a model directory or a hub name; by default the run of pretrain_jsonl.sh. TEXT is what
# to label at the end, EPOCHS and LR are the training. It needs transformers' Trainer: pip install accelerate.
set -euo pipefail
labelled=${1:-labelled.jsonl} model=${2:-runs/pretrain/run} home=${3:-runs/classify}

# The run as a model directory that transformers can load.
gpt2dist export "$model" --output "$home/model"

# A classification head on the model, and both fine-tuned. A fifth of the texts is held out to measure accuracy.
python3 "$(dirname "$0")/../tools/finetune_classifier.py" "$home/model" "$labelled" \
  --epochs "${EPOCHS:-3}" --lr "${LR:-5e-5}" --output "$home/classifier"

# Label a new text.
python3 - "$home/classifier" "${TEXT:-what a film}" <<'PYTHON'
import sys

from transformers import pipeline

directory, text = sys.argv[1:]
answer = pipeline("text-classification", model=directory)(text)[0]
print(f"{text!r}: {answer['label']} ({answer['score']:.3f})")
PYTHON
