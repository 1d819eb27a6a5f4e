"""A rank starts without what a run does not need: torch's compiler, and DeepSpeed's extensions."""

import subprocess
import sys

import pytest

from tests.support.ranks import run_ranks
from tests.support.runs import train_here, write_run


def started_by(config, overrides):
    """Programs that a rank ran, and whether it imported torch's compiler."""
    programs, popen = set(), subprocess.Popen

    def noting(command, *args, **more):
        programs.add(command if isinstance(command, str) else command[0])
        return popen(command, *args, **more)

    subprocess.Popen = noting
    train_here(config, overrides)
    return programs, "torch._inductor.compile_fx" in sys.modules


@pytest.mark.parametrize(
    ("precision", "stage"), [("fp32", 0), ("fp32", 1), ("bf16", 1), ("fp32", 2), ("fp32", 3)]
)
def test_nothing_is_compiled(tiny_dataset, tmp_path, precision, stage):
    config = write_run(tmp_path, tiny_dataset)
    overrides = [f"precision={precision}", f"zero.stage={stage}", "run.stop_after_steps=1"]
    ((programs, compiler),) = run_ranks(started_by, 1, config, overrides)
    assert not compiler
    assert programs <= {"git", "uname", "numactl"}  # our versions, and what DeepSpeed asks the machine
