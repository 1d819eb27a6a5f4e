"""A rank that is slower than the others is named by the metrics and by status."""

import os
import time

from gpt2dist.status.status import read_status
from tests.support.ranks import run_ranks
from tests.support.runs import metrics, train_here, write_run


def train_with_a_slow_rank(config, overrides):
    """The forward pass takes rank 1 longer."""
    from gpt2dist.model.gpt2 import LanguageModel

    nll_sum = LanguageModel.nll_sum

    def slow(self, *args):
        if os.environ["RANK"] == "1":
            time.sleep(0.3)
        return nll_sum(self, *args)

    LanguageModel.nll_sum = slow
    train_here(config, overrides)


def test_a_slow_rank_is_named(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    overrides = ["batch.micro_batch_size=2", "schedule.total_steps=7", "checkpoint.every_steps=3"]
    run_ranks(train_with_a_slow_rank, 2, config, overrides)
    run = tmp_path / "run"
    assert len(metrics(run, "time/forward_max")) >= 3
    assert set(metrics(run, "time/forward_max_rank")) == {1}
    assert min(metrics(run, "time/forward_max")) >= 0.3
    assert all(
        high >= low > 0
        for high, low in zip(*(metrics(run, f"time/step_{e}") for e in ("max", "min")), strict=True)
    )
    assert len(metrics(run, "time/save_max")) >= 1
    (forward,) = [each for each in read_status(run).rank_times if each.name == "forward"]
    assert forward.rank == 1 and "on rank 1" in forward.described()
