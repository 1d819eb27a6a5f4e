#!/usr/bin/env bash
# Build the wheel and the source distribution, check them as an index does, and use the wheel away from the checkout.
#
#   tools/check_package.sh [FOLDER]    FOLDER: where to work; default: a temporary directory
#
# PYTHON names the interpreter, TORCH what to install as torch (default: the version of constraints.txt), STEPS the
# steps of the quickstart (default: 4).
set -euo pipefail
cd "$(dirname "$0")/.."
home=$(realpath -m "${1:-$(mktemp -d)}")
python=${PYTHON:-python3}
pip=(-m pip --quiet --disable-pip-version-check install --constraint "$PWD/constraints.txt")
mkdir -p "$home/use"

"$python" -m venv "$home/build-env"
"$home/build-env/bin/python" -m pip --quiet --disable-pip-version-check install build twine
"$home/build-env/bin/python" -m build --outdir "$home/dist" . > "$home/build.log"
"$home/build-env/bin/twine" check --strict "$home"/dist/*

"$python" -m venv "$home/env"
"$home/env/bin/python" "${pip[@]}" "${TORCH:-torch}"
"$home/env/bin/python" "${pip[@]}" "$home"/dist/*.whl
cd "$home/use"
"$home/env/bin/gpt2dist" init gpt2-124m
"$home/env/bin/gpt2dist" quickstart --steps "${STEPS:-4}"
