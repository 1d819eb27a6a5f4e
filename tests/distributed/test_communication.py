"""How gradients are sent does not change what is summed."""

import pytest

from tests.support.runs import metrics, train, write_run

SHORT = ["schedule.total_steps=6", "batch.micro_batch_size=2"]


@pytest.mark.parametrize(("stage", "precision"), [(1, "fp32"), (2, "bf16"), (3, "fp32")])
def test_buckets_overlap_and_contiguity_do_not_change_a_bit(tiny_dataset, tmp_path, stage, precision):
    """On two ranks, whose sums have one order. The largest tensors are larger than the bucket."""
    config, words = write_run(tmp_path, tiny_dataset), [*SHORT, f"zero.stage={stage}", f"precision={precision}"]
    other = [
        f"zero.deepspeed.zero_optimization.{key}"
        for key in (
            "reduce_bucket_size=5000",
            f"overlap_comm={str(stage != 3).lower()}",
            "contiguous_gradients=false",
        )
    ]
    run = train(config, *words, world_size=2)
    changed = train(config, *words, *other, f"run.output_dir={tmp_path}/other", world_size=2)
    for tag in ("train/loss", "train/grad_norm"):
        assert metrics(run, tag) == metrics(changed, tag)
