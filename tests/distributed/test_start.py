"""A rank starts without what a run does not need: torch's compiler, and DeepSpeed's extensions."""

import json
import subprocess
import sys

import pytest

from tests.support.ranks import run_ranks
from tests.support.runs import train_here, write_run


def started_by(config, overrides):
    """Programs that a rank ran, and the compiler's modules that it imported."""
    programs, popen, before = set(), subprocess.Popen, set(sys.modules)  # a test before may have imported them

    def noting(command, *args, **more):
        programs.add(command if isinstance(command, str) else command[0])
        return popen(command, *args, **more)

    subprocess.Popen = noting
    train_here(config, overrides)
    return programs, {"torch._inductor.compile_fx"} & (set(sys.modules) - before)


@pytest.mark.parametrize(
    ("precision", "stage"), [("fp32", 0), ("fp32", 1), ("bf16", 1), ("fp32", 2), ("fp32", 3)]
)
def test_nothing_is_compiled(tiny_dataset, tmp_path, precision, stage):
    config = write_run(tmp_path, tiny_dataset)
    overrides = [f"precision={precision}", f"zero.stage={stage}", "run.stop_after_steps=1"]
    ((programs, compiler),) = run_ranks(started_by, 1, config, overrides)
    assert not compiler
    assert programs <= {"git", "uname"}  # for the versions of code and system; no numactl, of DeepSpeed


HEAVY = {
    *("transformers", "datasets", "pyarrow", "gigatoken", "awkward", "pandas", "scipy", "tensorboard"),
    *("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.onnx", "sympy"),
}
"""Modules that cost a rank much time and memory; what a plain run does not use, it does not import.

DeepSpeed imports triton wherever it is installed.
"""
COMPILER = {"torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.onnx", "sympy"}
TRAIN = """
import json, sys
from gpt2dist.cli import main
code = main(["train", *sys.argv[1:]])
print(json.dumps([code, sorted(sys.modules)]))
"""


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        (["zero.stage=0"], set()),
        (["zero.stage=1", "precision=bf16", "optimizer.clip_grad_norm=1.0", "stability.spike_sigma=6"], set()),
        (["zero.stage=2"], set()),
        # torch guards its checkpointing, and DeepSpeed its hooks of stage 3, against torch.compile.
        (["model.activation_checkpointing=true"], COMPILER),
        (["zero.stage=3"], COMPILER),
        (["monitoring.tensorboard=true"], {"tensorboard"}),
    ],
)
def test_a_run_imports_only_what_it_uses(tiny_dataset, tmp_path, overrides, needed):
    """Training, validation and a checkpoint, in a process that has imported nothing before."""
    config = write_run(tmp_path, tiny_dataset, validation=True)
    words = [str(config), "run.stop_after_steps=2", *overrides]
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *words], stdout=subprocess.PIPE, text=True, timeout=120, check=True
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0 and HEAVY & set(modules) <= needed
