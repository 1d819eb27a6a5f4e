#!/usr/bin/env bash
# Submit a run to a cluster: what Slurm and Kubernetes would get, and then the same job on this machine.
#
#   examples/cluster.sh [CONFIG] [DIRECTORY] [section.key=value …]
#
# CONFIG is a run configuration whose datasets exist, by default that of the run of pretrain_jsonl.sh. The dry runs
# submit nothing and need no cluster; the job at the end runs for real. GPUS is the number of ranks of a node, IMAGE an
# image with gpt2dist, and VOLUME a volume claim and the path of its mount, for Kubernetes.
set -euo pipefail
config=${1:-runs/pretrain/run/config.yaml} home=${2:-runs/cluster} overrides=("${@:3}")
gpus=${GPUS:-1}
mkdir -p "$home"

# Slurm: two nodes, one rank per GPU. The job saves before its time limit, is requeued, and resumes.
gpt2dist submit "$config" "run.output_dir=$home/slurm" "${overrides[@]}" --scheduler slurm --nodes 2 \
  --gpus-per-node "$gpus" --time 24:00:00 --dry-run >"$home/slurm.sh"

# Kubernetes: the pods mount a volume where this machine has it, so that paths are the same in both.
gpt2dist submit "$config" "run.output_dir=$home/kubernetes" "${overrides[@]}" --scheduler kubernetes --nodes 2 \
  --gpus-per-node "$gpus" --container-image "${IMAGE:-registry.example.com/gpt2dist:0.1}" \
  --volume "${VOLUME:-training:$PWD}" --dry-run >"$home/kubernetes.yaml"

# This machine: the same files and the same log, in the background. Leave out --dry-run above and do likewise there.
gpt2dist submit "$config" "run.output_dir=$home/local" "${overrides[@]}" --scheduler local --gpus-per-node "$gpus"

# Every second until it ends. `gpt2dist status DIRECTORY --watch` is the same for people.
while gpt2dist status "$home/local" --json | grep -qE '"state": *"(submitted|running)"'; do
  sleep 1
done
gpt2dist status "$home/local"

# Curves, configuration and environment on one page. The log is in DIRECTORY/local/submission/001.
gpt2dist report "$home/local" --output "$home/report.html"
