#!/usr/bin/env bash
# How these files were made, by commit 2300971 (version 0.1.0) on a host called golden, two processes on a CPU.
# A record, not a tool: what version 0.1 wrote is never written again.
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
license=$1  # the LICENSE of this repository
python - "$license" <<'P'
import json, pathlib, sys
paragraphs = [" ".join(p.split()) for p in pathlib.Path(sys.argv[1]).read_text().split("\n\n")]
with open("corpus.jsonl", "w") as out:
    for p in filter(None, paragraphs):
        out.write(json.dumps({"text": p}) + "\n")
P
gpt2dist tokenizer train corpus.jsonl --vocab-size 384 --output tokenizer
gpt2dist preprocess corpus.jsonl --tokenizer tokenizer --val-fraction 0.15 --output dataset
cat > run.yaml <<'Y'
# The run of tests/golden/v0.1, as version 0.1 read it.
run:
  name: golden
  output_dir: run
model: {n_layer: 2, n_head: 4, n_embd: 24, context_length: 32, dropout: 0.0}
data:
  train: [{path: dataset}]
  validation: [{name: held-out, path: dataset}]
  sequence_length: 32
  stride: 16
  loss_on: new
batch: {global_batch_size: 8, micro_batch_size: 2}
optimizer: {lr: 4.0e-3, betas: [0.9, 0.95], weight_decay: 0.1, clip_grad_norm: 1.0}
schedule: {kind: cosine, warmup_steps: 5, total_steps: 30, min_lr_ratio: 0.1}
precision: fp32
zero: {stage: 2}
checkpoint: {every_steps: 10, keep_last: 1}
evaluation: {every_steps: 10, batch_size: 8}
monitoring:
  log_every_steps: 1
  samples: {prompts: ["You may"], every_steps: 10, max_new_tokens: 8}
stability: {spike_sigma: 8.0}
Y
# The second save of 20 steps replaces the first.
gpt2dist submit run.yaml run.stop_after_steps=20 --scheduler local --gpus-per-node 2
until grep -qs 00020 run/checkpoints/latest; do sleep 0.2; done
while pgrep -f "gpt2dist launc[h]" >/dev/null; do sleep 0.2; done
gpt2dist launch --nproc-per-node 2 evaluate run --data dataset --stride 8 --json >evaluation.json
gpt2dist evaluate run --data dataset --stride 8 --run run --name held-out-8
# What the run does from here on.
cp -r run whole
gpt2dist launch --nproc-per-node 2 train run.yaml run.output_dir=whole
python - <<'P'
import json
lines = [json.loads(l) for l in open("whole/metrics.jsonl")]
losses = {l["step"]: l["train/loss"] for l in lines if "train/loss" in l}
print(json.dumps(losses))
json.dump(losses, open("losses.json", "w"), indent=1)
P
rm -rf whole

# A run that was asked to stop, and one that lost a rank: what they leave behind, without checkpoints.
for end in stopped failed; do
  gpt2dist launch --nproc-per-node 2 train run.yaml run.name=$end run.output_dir=$end schedule.total_steps=200000 \
    monitoring.log_every_steps=40 monitoring.tensorboard=false evaluation.every_steps=null data.validation=[] "monitoring.samples={}" &
  SECONDS=0; until [ $SECONDS -gt 40 ] || [ "$(cat $end/metrics.jsonl 2>/dev/null | wc -l)" -ge 2 ]; do sleep 0.1; done
  ranks=$(pgrep -f "gpt2dist trai[n] run.yaml run.name=$end")
  if [ $end = stopped ]; then kill -TERM $ranks; else kill -KILL $(echo "$ranks" | tail -n1); fi
  wait || true
  rm -rf $end/checkpoints
done
