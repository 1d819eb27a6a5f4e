#!/usr/bin/env bash
# Chinese text by characters and by byte-level BPE: two tokenizers and two models of the same text, compared.
#
#   examples/chinese.sh [poems.txt] [DIRECTORY] [section.key=value …]
#
# Each line of the file is a document. Perplexities per token cannot be compared, because a token of BPE covers more
# text than a character. Bits per byte can: both models predict the same bytes. VOCAB is the vocabulary of BPE, PROMPT
# the start of the samples.
set -euo pipefail
text=${1:-poems.txt} home=${2:-runs/chinese} overrides=("${@:3}")
prompt=${PROMPT:-春}

mkdir -p "$home"
[ -f "$home/run.yaml" ] || gpt2dist init quickstart --output "$home/run.yaml"

for kind in char bpe; do
  # One token per character, or tokens merged from bytes: as Chinese has no spaces, common phrases become one token.
  size=()
  [ "$kind" = char ] || size=(--vocab-size "${VOCAB:-8192}")
  gpt2dist tokenizer train "$text" --document-separator $'\n' --kind "$kind" "${size[@]}" \
    --output "$home/$kind-tokenizer"

  # A hash of its text decides whether a document is held out, so both datasets hold out the same ones.
  gpt2dist preprocess "$text" --document-separator $'\n' --tokenizer "$home/$kind-tokenizer" --val-fraction 0.1 \
    --output "$home/$kind"

  # The same model and the same number of tokens; those of BPE are more text.
  gpt2dist launch train "$home/run.yaml" "run.name=chinese-$kind" "run.output_dir=$home/$kind-run" \
    "data.train=[{path: $home/$kind}]" "data.validation=[{name: held-out, path: $home/$kind}]" \
    "monitoring.samples.prompts=[$prompt]" "${overrides[@]}"

  # With an end-of-text token before the text, the first token of the text is scored too, in both.
  gpt2dist evaluate "$home/$kind-run" --data "$home/$kind" --prefix end-of-text --output "$home/$kind.json"
  gpt2dist generate "$home/$kind-run" --prompt "$prompt" --max-new-tokens 30
done

# Both runs on one page, and the numbers side by side.
gpt2dist report "$home/char-run" "$home/bpe-run" --output "$home/report.html"
python3 - "$home/char.json" "$home/bpe.json" <<'PYTHON'
import json
import sys

print(f"{'':12} {'perplexity':>12} {'bits per byte':>14}")
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        result = json.load(file)
    print(f"{path.split('/')[-1]:12} {result['perplexity']:12.2f} {result['bits_per_byte']:14.4f}")
PYTHON
