#!/usr/bin/env bash
# Collect what a GPU machine without a network needs to run accept.py, beside its Python 3.12, torch and transformers.
#
#   tools/gpu/carry.sh FOLDER [NANOGPT]     NANOGPT: a checkout of nanoGPT, whose model.py comes along
#
# On the GPU machine, FOLDER/install.sh installs it, and FOLDER/accept.sh runs the checks; both take no arguments but
# those of accept.py. The folder holds this tree, wheels (cp312, manylinux x86-64) and scripts: less than 40 MiB.
# It takes for granted what comes with torch and transformers: numpy, tokenizers, safetensors, huggingface_hub, PyYAML,
# tqdm, fsspec, pyarrow, tensorboard and the like; install.sh names what is missing. PYTHON names an interpreter with pip.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'; exit 2; }
out=$(realpath -m "$1")
nanogpt=${2:+$(realpath "$2")}
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
mkdir -p "$out/wheels" "$out/nanogpt"

# datasets 4 and 5 need pyarrow, pandas and multiprocess; the first two come with the machine.
packages=(pydantic pydantic_core orjson hjson annotated_types typing_inspection gigatoken awkward awkward_cpp
  datasets dill multiprocess)
pins=()
for package in "${packages[@]}"; do
  pins+=("$(grep -iE "^${package//_/[-_]}==" constraints.txt)")
done
platforms=()
for version in 2_5 2_12 2_17 2_24 2_26 2_27 2_28 2_31 2_34 2_35; do
  platforms+=(--platform "manylinux_${version}_x86_64")
done
"$PYTHON" -m pip download --quiet --no-deps --only-binary :all: --python-version 3.12 --implementation cp \
  "${platforms[@]}" --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --dest "$out/wheels" "${pins[@]}"
# A pure wheel: DeepSpeed's own operations would need nvcc.
DS_BUILD_OPS=0 "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$out/wheels" "$(grep '^deepspeed==' constraints.txt)"
git archive --format tar.gz --output "$out/tree.tar.gz" HEAD
[ -z "$nanogpt" ] || cp "$nanogpt/model.py" "$out/nanogpt/"

cat > "$out/install.sh" <<'SCRIPT'
#!/usr/bin/env bash
# Install the wheels and unpack the tree, without a network. PYTHON names the interpreter that has torch.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"${PYTHON:-python3}" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$here/site" "$here"/wheels/*.whl
mkdir -p "$here/tree" && tar -xzf "$here/tree.tar.gz" -C "$here/tree"
PYTHONPATH="$here/site:$here/tree" "${PYTHON:-python3}" - <<'CODE'
import importlib.util, sys

needed = "torch transformers tokenizers huggingface_hub numpy tensorboard yaml tqdm safetensors pyarrow".split()
needed += "charset_normalizer fsspec deepspeed pydantic orjson gigatoken awkward datasets pandas xxhash".split()
needed += "psutil einops msgpack cpuinfo".split()
if missing := [name for name in needed if not importlib.util.find_spec(name)]:
    sys.exit(f"install.sh: this machine lacks {', '.join(missing)}; carry their wheels in wheels/ too")
CODE
SCRIPT
cat > "$out/accept.sh" <<'SCRIPT'
#!/usr/bin/env bash
# Run the checks; the arguments go to accept.py.
here=$(cd "$(dirname "$0")" && pwd)
nanogpt=()
[ -f "$here/nanogpt/model.py" ] && nanogpt=(--nanogpt "$here/nanogpt")
export PYTHONPATH="$here/site:$here/tree"
exec "${PYTHON:-python3}" "$here/tree/tools/gpu/accept.py" "${nanogpt[@]}" "$@"
SCRIPT
chmod +x "$out/install.sh" "$out/accept.sh"
size=$(du -sm "$out" | cut -f1)
echo "$out: $size MiB, $(ls "$out/wheels" | wc -l) wheels; there: install.sh, then accept.sh"
[ "$size" -lt 40 ] || { echo "carry.sh: more than 40 MiB" >&2; exit 1; }
