"""Stage 3 with a second copy of the weights in groups of ranks (`zero_hpz_partition_size`) is exact."""

import pytest

from gpt2dist.training.engine import Engine
from tests.support.plain_pytorch import plain_pytorch
from tests.support.ranks import run_ranks
from tests.support.runs import LARGE_MODEL, metrics, train_here, write_run

COPIES = "zero.deepspeed.zero_optimization.zero_hpz_partition_size=2"


def copied_elements(config, overrides):
    """The elements that this rank's second copy holds, and those of all parameters, at the end of a run."""
    engines, init = [], Engine.__init__

    def recorded(self, *args):
        init(self, *args)
        engines.append(self)

    Engine.__init__ = recorded
    train_here(config, overrides)
    parameters = list(engines[0].state.parameters.values())
    return sum(p.ds_secondary_tensor.ds_numel for p in parameters), sum(p.ds_numel for p in parameters)


@pytest.mark.parametrize("offload", ["none", pytest.param("cpu", marks=pytest.mark.slow)])
def test_copies_of_the_weights_in_groups_of_ranks_change_nothing(tiny_dataset, tmp_path, offload):
    """Four ranks in two groups; the second half of the run is resumed, and evaluated in between."""
    losses, _ = run_ranks(plain_pytorch, 1, [tiny_dataset], [1])[0]
    config = write_run(tmp_path, tiny_dataset, validation=True)
    common = ["zero.stage=3", "batch.micro_batch_size=2", COPIES, *LARGE_MODEL, "evaluation.every_steps=3"]
    common += [f"zero.offload_parameters={offload}", "run.stop_after_steps=8"]
    whole, parts = ([*common, f"run.output_dir={tmp_path}/{name}"] for name in ("whole", "parts"))
    for copied, elements in run_ranks(copied_elements, 4, config, whole):
        assert copied >= elements / 2
    assert metrics(tmp_path / "whole", "train/loss") == pytest.approx(losses[:8], abs=1e-5)
    run_ranks(train_here, 4, config, [*parts, "run.stop_after_steps=5"])
    run_ranks(train_here, 4, config, parts)
    for tag in ("train/loss", "train/grad_norm", "eval/val/loss"):
        assert metrics(tmp_path / "parts", tag) == metrics(tmp_path / "whole", tag)
