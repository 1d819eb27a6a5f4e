"""The estimate of memory against the bytes of all tensors that a DeepSpeed engine holds."""

import contextlib
import gc
import json

import pytest
import torch

from gpt2dist.config import Config
from gpt2dist.loading.loader import StepBatch
from gpt2dist.model.shape import Shape
from gpt2dist.preflight.memory import STATES, MemoryInputs, _reduction, _update, estimate, total
from gpt2dist.training.deepspeed_config import deepspeed_config
from tests.support.ranks import run_ranks

SHAPE = Shape(n_layer=3, n_head=4, n_embd=384, context_length=16, vocab_size=1000)
BUCKET = 1_500_000
LENGTH = 4  # tokens: so few that activations do not count
ACCUMULATION = 2


def held() -> int:
    """Bytes of all tensors that Python can reach, each storage once."""
    gc.collect()
    storages = {}
    for tensor in [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]:
        for each in (tensor, tensor.grad if tensor.is_leaf else None):
            if each is not None and each.device.type != "meta" and each.untyped_storage().data_ptr():
                storages[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
    return sum(storages.values())


def most_held(zero, precision, watch_sums=False):
    """Bytes that a rank holds in the second step: before its last backward, at sums, and at the update.

    To watch the sums changes what autocast and fp32 hold before.
    """
    from gpt2dist.distributed.world import join
    from gpt2dist.model.gpt2 import LanguageModel
    from gpt2dist.training.engine import Engine
    from tests.support.collectives import Collectives

    inherited = held()  # of the process that it was forked from
    sections = {
        "zero": {**zero, "deepspeed": {"zero_optimization": {"reduce_bucket_size": BUCKET}}},
        "precision": precision,
    }
    config = Config.model_validate_json(json.dumps(sections))
    world = join()
    settings = deepspeed_config(config, ACCUMULATION, SHAPE.padded_parameters)
    engine = Engine(LanguageModel(SHAPE, 0, loss="plain"), config, settings, world)
    measured, summed, updated = [], [], []
    update = engine._optimizer.step
    engine._optimizer.step = lambda *args: (updated.append(held()), update(*args))
    backward = engine._engine.backward

    def measured_backward(loss, **kwargs):
        loss.register_hook(lambda _: measured.append(held()))
        backward(loss, **kwargs)

    engine._engine.backward = measured_backward
    # The first gradient, for which buckets are made.
    first = engine.state.parameters["transformer.ln_f.bias"]
    first.register_post_accumulate_grad_hook(lambda _: measured.append(held()))
    bounds = torch.zeros(1, dtype=torch.int64), torch.full((1,), LENGTH)
    micro_batch = [torch.zeros(1, LENGTH + 1, dtype=torch.int32), *bounds]
    samples = ACCUMULATION * world.size

    def at_a_sum(name, size):
        if "reduce" in name and size > BUCKET:
            summed.append(held())

    with Collectives(at_a_sum) if watch_sums else contextlib.nullcontext():
        for _ in range(2):
            summed.clear(), updated.clear()
            engine.train_step(StepBatch([micro_batch] * ACCUMULATION, LENGTH * samples, samples), 1e-3)
    return tuple(max(each, default=0) - inherited for each in (measured[-2:], summed, updated))


def inputs(precision, stage, offload="none", reduce_dtype="fp32"):
    return MemoryInputs(
        SHAPE,
        sequence_length=LENGTH,
        micro_batch_size=1,
        world_size=2,
        stage=stage,
        precision=precision,
        fp32_accumulation=precision == "bf16",
        reduce_dtype=reduce_dtype,
        bucket_elements=BUCKET,
        offload_optimizer=offload,
        pinned=False,  # nothing is, on a CPU
    )


@pytest.mark.parametrize(
    ("precision", "stage", "offload"),
    [
        *(("fp32", stage, "none") for stage in (1, 2, 3)),
        ("autocast_bf16", 1, "none"),
        *(("bf16", stage, "cpu") for stage in (1, 2, 3)),
    ],
)
def test_the_states_are_what_deepspeed_holds(precision, stage, offload):
    zero = {"stage": stage, "offload_optimizer": offload}
    ((measured, _, updated), *_) = run_ranks(most_held, 2, zero, precision)
    setting = inputs(precision, stage, offload)
    parts = estimate(setting)
    estimated = total(parts, STATES) + sum(part.host for part in parts)
    assert estimated == pytest.approx(measured, rel=0.03)
    copies = _update(setting).device
    assert updated <= 1.03 * (estimated + copies)
    assert updated == pytest.approx(estimated + copies, rel=0.03) or not copies
    assert bool(copies) == (precision == "fp32" and stage == 2)


@pytest.mark.parametrize(
    ("precision", "stage", "reduce_dtype"),
    [
        *(("fp32", stage, "fp32") for stage in (0, 1, 2)),
        *(("bf16", stage, reduce_dtype) for stage in (1, 2, 3) for reduce_dtype in ("fp32", "bf16")),
    ],
)
def test_the_copies_that_are_summed_over_ranks_are_counted(precision, stage, reduce_dtype):
    zero = {"stage": stage, "reduce_dtype": reduce_dtype}
    # A thread of gloo may keep a tensor of one rank a moment longer.
    ranks = run_ranks(most_held, 2, zero, precision, watch_sums=True)
    measured, summed, _ = map(min, zip(*ranks, strict=True))
    setting = inputs(precision, stage, reduce_dtype=reduce_dtype)
    states = total(estimate(setting), STATES)
    assert states == pytest.approx(measured, rel=0.03) or precision == "fp32"
    assert states + _reduction(setting).device == pytest.approx(summed, rel=0.05)
