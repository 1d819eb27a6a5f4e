#!/usr/bin/env bash
# Make the datasets of configs/shakespeare-char*.yaml from tinyshakespeare's input.txt:
#   configs/shakespeare-char.sh input.txt [data]
# The first 90 % of the text (in characters) is for training, the rest for validation, as in nanoGPT.
set -euo pipefail

text=${1:?usage: configs/shakespeare-char.sh input.txt [data]}
data=${2:-data}
python=${PYTHON:-python3}
parts=$data/shakespeare-char-text

if [ ! -f "$parts/val.txt" ]; then
  mkdir -p "$parts"
  "$python" - "$text" "$parts" <<'EOF'
import pathlib
import sys

text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
cut = int(len(text) * 0.9)
parts = pathlib.Path(sys.argv[2])
(parts / "train.txt").write_text(text[:cut], encoding="utf-8")
(parts / "val.txt").write_text(text[cut:], encoding="utf-8")
EOF
fi

"$python" -m gpt2dist tokenizer train "$text" --kind char --output "$data/shakespeare-char-tokenizer"
for split in train val; do
  "$python" -m gpt2dist preprocess "$parts/$split.txt" \
    --tokenizer "$data/shakespeare-char-tokenizer" --output "$data/shakespeare-char-$split"
done
