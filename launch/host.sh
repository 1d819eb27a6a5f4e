# shellcheck shell=bash
# Sourced by the other scripts of this folder: checks of their input, and the resources of this host.

fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# Check that the launcher is installed and that the first argument is a file: check LAUNCHER CONFIG …
check() {
  local launcher=$1 config=${2:-}
  [ -n "$config" ] || fail "CONFIG is missing; write ${0##*/} CONFIG [section.key=value …], such as configs/gpt2-124m.yaml optimizer.lr=3e-4"
  [ -f "$config" ] || fail "$config: no such file; the first argument is the run's YAML file"
  command -v "$launcher" >/dev/null || fail "no $launcher on PATH; activate the environment that has gpt2dist"
}

# Check that a variable is an integer of at least MINIMUM: at_least MINIMUM NAME
at_least() {
  [[ ${!2} =~ ^[0-9]+$ && $((10#${!2})) -ge $1 ]] || fail "$2=${!2}: write a whole number of at least $1"
}

# Set GPUS, unless it is set: all GPUs of this host, or 2 processes that share its CPU.
# Divide the cores among the processes; torchrun would give each of them one thread.
share_host() {
  : "${GPUS:=$(python -c 'import torch; print(torch.cuda.device_count() or 2)')}"
  at_least 1 GPUS
  local share=$(($(nproc) / GPUS))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
}
