"""On the way of a good step nobody reads the device: what is measured is read once per log interval."""

import sys

import pytest

from tests.support.ranks import run_ranks
from tests.support.runs import train_here, write_run
from tests.support.tensor_reads import READS


def readers_in_steps(config, overrides):
    """Files whose code read the value of a tensor in a step, after the first one."""
    import torch

    from gpt2dist.training.engine import Engine

    step, found, inside, count = Engine.train_step, set(), [False], iter(range(100))

    def watched(name):
        read = getattr(torch.Tensor, name)

        def noting(self, *args, **more):
            if inside[0] and sys._getframe(1).f_code.co_name != "settle":  # flags in host memory, for the hosts
                found.add(sys._getframe(1).f_code.co_filename)
            return read(self, *args, **more)

        return noting

    for name in READS:
        setattr(torch.Tensor, name, watched(name))

    def train_step(self, *args):
        inside[0] = next(count) > 0
        try:
            return step(self, *args)
        finally:
            inside[0] = False

    Engine.train_step = train_step
    train_here(config, overrides)
    return sorted(found)


@pytest.mark.parametrize(
    ("stage", "precision", "theirs"),
    [
        (0, "fp32", ""),
        (1, "bf16", "deepspeed"),  # it looks whether the norm is finite, once a step
        (2, "bf16", "deepspeed"),
        (3, "bf16", "deepspeed"),
    ],
)
def test_only_deepspeed_reads_the_device_in_a_step(tiny_dataset, tmp_path, stage, precision, theirs):
    config = write_run(tmp_path, tiny_dataset)
    words = [f"zero.stage={stage}", f"precision={precision}", "stability.spike_sigma=6"]
    readers = [name for each in run_ranks(readers_in_steps, 2, config, words) for name in each]
    assert all(theirs and theirs in name for name in readers), readers
