"""`zero.reduce_dtype`: in which data type gradients are sent, and whether they are rounded to it.

tests/distributed/test_no_waiting.py lists all collectives of a step with the default, fp32.
"""

import pytest

from tests.support.ranks import run_ranks
from tests.support.runs import write_run
from tests.support.watched_step import watched_step

PARAMETERS = 38_784
"""Of the small model, with the padding of the vocabulary."""


def words(stage, precision, dtype, micro_batch):
    return [
        f"zero.stage={stage}",
        f"precision={precision}",
        f"zero.reduce_dtype={dtype}",
        f"batch.micro_batch_size={micro_batch}",
        "optimizer.clip_grad_norm=0",
    ]


@pytest.mark.parametrize(
    ("stage", "world_size", "micro_batch"),
    [
        (1, 1, 2),  # four micro-batches on one rank: DeepSpeed rounds their sum
        (1, 2, 4),
        (2, 2, 4),  # one micro-batch: stages 2 and 3 add the sums over ranks of several in fp32
        (3, 2, 4),
    ],
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_bf16_gradients_are_rounded_only_if_it_is_asked_for(
    tiny_dataset, tmp_path, stage, world_size, micro_batch, dtype
):
    config = write_run(tmp_path, tiny_dataset)
    ranks = run_ranks(watched_step, world_size, config, words(stage, "bf16", dtype, micro_batch))
    elements, in_bf16 = sum(step.elements for step in ranks), sum(step.in_bf16 for step in ranks)
    assert elements == PARAMETERS
    assert in_bf16 == elements if dtype == "bf16" else in_bf16 < elements / 2
    sent = {"fp32": f"float32 {4 * PARAMETERS}", "bf16": f"bfloat16 {2 * PARAMETERS}"}
    name = "reduce_scatter" if stage == 3 else "allreduce"
    for step in ranks:
        assert step.collectives[f"{name} {sent[dtype]}"] == 1
        assert not any(name in each and sent["bf16"] in each for each in step.collectives) or dtype == "bf16"


@pytest.mark.parametrize("stage", [1, 3])
def test_fp16_gradients_can_be_sent_in_16_bits(tiny_dataset, tmp_path, stage):
    config = write_run(tmp_path, tiny_dataset)
    name = "reduce_scatter" if stage == 3 else "allreduce"
    for step in run_ranks(watched_step, 2, config, words(stage, "fp16", "fp16", 4)):
        assert step.collectives[f"{name} float16 {2 * PARAMETERS}"] == 1
