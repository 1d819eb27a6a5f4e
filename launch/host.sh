# shellcheck shell=bash
# Sourced by the scripts beside it: what they check, and what they find out about this host.

fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# The program that starts the ranks, and the configuration as first word.
check() {
  local launcher=$1 config=${2:-}
  [ -n "$config" ] || fail "which run? ${0##*/} CONFIG [section.key=value …], as configs/gpt2-124m.yaml optimizer.lr=3e-4"
  [ -f "$config" ] || fail "$config: no such file; the first word is the run's YAML file"
  command -v "$launcher" >/dev/null || fail "no $launcher on PATH; activate the environment that has gpt2dist"
}

# Refuses what is no whole number of at least this: at_least 1 NODES
at_least() {
  [[ ${!2} =~ ^[0-9]+$ && $((10#${!2})) -ge $1 ]] || fail "$2=${!2}: write a whole number of at least $1"
}

# Sets GPUS, unless it is given: all of this host, or 2 processes that share its CPU.
# Each process gets its part of the cores; torchrun would give it one.
share_host() {
  : "${GPUS:=$(python -c 'import torch; print(torch.cuda.device_count() or 2)')}"
  at_least 1 GPUS
  local share=$(($(nproc) / GPUS))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
}
