"""Where the host waits for the device in a step, and what the ranks send, if the device is a GPU: lists.

A new entry in a list of waits is a place where the GPU idles. Rather mend it than list it.
"""

import pytest

from tests.support.ranks import run_ranks
from tests.support.runs import write_run
from tests.support.watched_step import watched_step

ACCUMULATION = 4
SPIKES = "stability.spike_sigma=6"

# Waits: all of them are DeepSpeed's.

NORM = {"deepspeed/runtime/utils.py is_invalid_grad_norm: __bool__": 3}
"""It checks whether the norm of the gradient is finite."""
NORM_ONCE = {"deepspeed/runtime/utils.py is_invalid_grad_norm: __bool__": 1}
CLIP = {"deepspeed/runtime/utils.py clip_tensors_by_global_norm: __bool__": 1}
"""Its optimizer for stage 1 in bf16 compares the norm with the limit."""
OVERFLOW = {"deepspeed/runtime/zero/stage_1_and_2.py has_overflow: item": 1}
OVERFLOW_3 = {"deepspeed/runtime/zero/stage3.py has_overflow: item": 1}
REDUCE = "deepspeed/runtime/zero/stage3.py independent_gradient_partition_epilogue: synchronize a stream or event"
"""Stage 3 waits for its reductions after each micro-batch."""
STAGE_3 = {
    REDUCE: ACCUMULATION,
    **NORM_ONCE,
    # Stage 3 waits for the small weights, which it gathers after the update.
    "deepspeed/runtime/zero/partition_parameters.py _allgather_params_coalesced: synchronize the device": 1,
}
WAITS = {
    (0, "fp32"): {},
    (0, "autocast_bf16"): {},
    (1, "fp32"): NORM,
    (1, "autocast_bf16"): NORM,
    (1, "bf16"): NORM_ONCE | CLIP,
    (1, "fp16"): NORM | OVERFLOW,
    (2, "fp32"): NORM,
    (2, "autocast_bf16"): NORM,
    (2, "bf16"): NORM | OVERFLOW,
    (2, "fp16"): NORM | OVERFLOW,
    (3, "fp32"): STAGE_3,
    (3, "bf16"): STAGE_3,
    (3, "fp16"): STAGE_3 | OVERFLOW_3,
}
"""(stage, precision) → who waits in a step, and how often."""

# Streams that are chosen for the work that follows: DeepSpeed's, to reduce gradients.

REDUCED = {
    "deepspeed/runtime/zero/stage_1_and_2.py average_tensor": 1,
    "deepspeed/runtime/zero/stage_1_and_2.py reduce_ipg_grads": 1,
}
"""Once a step at stage 1, after each micro-batch at stage 2."""
REDUCED_3 = {
    "deepspeed/runtime/zero/stage3.py __add_grad_to_ipg_bucket": 28 * ACCUMULATION,  # parameters
    "deepspeed/runtime/zero/stage3.py __reduce_and_partition_ipg_grads": ACCUMULATION,
}
STREAMS = {
    0: {},
    1: REDUCED,
    2: {place: times * ACCUMULATION for place, times in REDUCED.items()},
    3: REDUCED_3,
}
OTHER_STREAMS = {
    (1, "bf16"): {},
    (3, "fp16"): REDUCED_3 | {"deepspeed/runtime/zero/stage3.py has_overflow": 1},
}

# Collectives: "name dtype bytes" → how often. Gradients are always summed in fp32.

PARAMETERS = 38_784
"""Of the small model, with the padding of the vocabulary."""
OURS = {
    # Whether to stop, and the times of the ranks: on the CPU, before each of the first micro-batches.
    "allreduce int64 88": ACCUMULATION,
    "allreduce float64 8": 1,  # the loss, for the detection of spikes
}
ALL = f"allreduce float32 {4 * PARAMETERS}"
"""All gradients, summed by every rank."""
SCATTERED = f"reduce_scatter float32 {4 * PARAMETERS}"
"""All gradients, summed by the rank that keeps them."""
SEND_NORM = {"allreduce float32 4": 2}
SEND_OVERFLOW = {"allreduce uint8 1": 1}


def weights(dtype, width):
    """The updated weights of the two parameter groups."""
    return {f"allgather {dtype} {number * width}": 1 for number in (37_888, 896)}


def weights_3(dtype, width):
    """The updated weights, one by one, as all of them are small."""
    sizes = {12_288: 1, 1024: 3, 32: 14, 3072: 2, 96: 2, 4096: 4, 128: 2}
    return {f"allgather {dtype} {number * width}": times for number, times in sizes.items()}


FP32, BF16, FP16 = ("float32", 4), ("bfloat16", 2), ("float16", 2)
STAGE_3_SENDS = {SCATTERED: ACCUMULATION, "allreduce float64 8": 3}  # two of them for the norm
SENDS = {
    (0, "fp32"): {ALL: 1},
    (0, "autocast_bf16"): {ALL: 1},
    (1, "fp32"): {ALL: 1} | SEND_NORM | weights(*FP32),
    (1, "autocast_bf16"): {ALL: 1} | SEND_NORM | weights(*FP32),
    (1, "bf16"): {ALL: 1} | weights(*BF16),
    (1, "fp16"): {ALL: 1} | SEND_NORM | SEND_OVERFLOW | weights(*FP16),
    (2, "fp32"): {ALL: ACCUMULATION} | SEND_NORM | weights(*FP32),
    (2, "autocast_bf16"): {ALL: ACCUMULATION} | SEND_NORM | weights(*FP32),
    (2, "bf16"): {ALL: ACCUMULATION} | SEND_NORM | SEND_OVERFLOW | weights(*BF16),
    (2, "fp16"): {ALL: ACCUMULATION} | SEND_NORM | SEND_OVERFLOW | weights(*FP16),
    (3, "fp32"): STAGE_3_SENDS | weights_3(*FP32),
    (3, "bf16"): STAGE_3_SENDS | weights_3(*BF16),
    (3, "fp16"): STAGE_3_SENDS | SEND_OVERFLOW | weights_3(*FP16),
}
"""(stage, precision) → the collectives of a step."""

BUFFERS = {2: 7, 3: 3}
"""Stage → buffers in pinned memory with the optimizer's state on the CPU. At stage 2: fp32 and bf16 weights and
gradients of two parameter groups, and one for the gradient on its way."""


@pytest.mark.parametrize(("stage", "precision"), WAITS)
def test_a_step_waits_and_sends_only_what_the_lists_say(tiny_dataset, tmp_path, stage, precision):
    config = write_run(tmp_path, tiny_dataset)
    for step in run_ranks(watched_step, 2, config, [f"zero.stage={stage}", f"precision={precision}", SPIKES]):
        assert step.early_waits == ({REDUCE: ACCUMULATION - 1} if stage == 3 else {})
        assert step.waits == WAITS[stage, precision]
        assert step.collectives == OURS | SENDS[stage, precision]
        assert step.streams == OTHER_STREAMS.get((stage, precision), STREAMS[stage])
        assert step.pinned_before == 0 and step.pinned == {}


@pytest.mark.parametrize(("stage", "buffers"), BUFFERS.items())
def test_offloading_pins_its_memory_once(tiny_dataset, tmp_path, stage, buffers):
    config = write_run(tmp_path, tiny_dataset)
    overrides = [f"zero.stage={stage}", "precision=bf16", "zero.offload_optimizer=cpu"]
    for step in run_ranks(watched_step, 2, config, overrides):
        assert step.pinned_before == buffers and step.pinned == {}


MUON = ["optimizer.kind=muon", "model.n_layer=1"]
"""With one layer, the border of two ranks is in the middle of the largest matrix."""
ONE_LAYER = f"allreduce float32 {4 * 26_080}"
NORM_OF_3 = {"deepspeed/runtime/utils.py is_invalid_grad_norm: __bool__": 4}
"""Muon has three parameter groups, AdamW two."""
MUON_NORM = {"allreduce float32 4": 3}


def muon_weights(dtype, width):
    """The updated weights of the three parameter groups, and half of a matrix to its owner and back."""
    out = {f"allgather {dtype} {number * width}": 1 for number in (12_288, 13_312, 480)}
    return out | {f"alltoall {dtype} {2048 * width}": 2}


MUON_STEPS = {
    # All ranks have all matrices: one works on 7168 of the 12288 elements, and sends these results to the other.
    (0, "fp32"): ({}, {ONE_LAYER: 1, f"alltoall float32 {4 * 7168}": 1}),
    (1, "fp32"): (NORM_OF_3, {ONE_LAYER: 1} | MUON_NORM | muon_weights(*FP32)),
    (1, "bf16"): (NORM_ONCE | CLIP, {ONE_LAYER: 1} | muon_weights(*BF16)),
    (2, "fp32"): (NORM_OF_3, {ONE_LAYER: ACCUMULATION} | MUON_NORM | muon_weights(*FP32)),
}
"""(stage, precision) → the waits and the collectives of a step with Muon."""


@pytest.mark.parametrize(("stage", "precision"), MUON_STEPS)
def test_muon_never_waits_and_sends_only_what_crosses_a_border(tiny_dataset, tmp_path, stage, precision):
    config = write_run(tmp_path, tiny_dataset)
    waits, sends = MUON_STEPS[stage, precision]
    for step in run_ranks(
        watched_step, 2, config, [f"zero.stage={stage}", f"precision={precision}", SPIKES, *MUON]
    ):
        assert (step.early_waits, step.waits) == ({}, waits)
        assert step.collectives == OURS | sends


def test_deepspeeds_throughput_timer_would_be_noticed(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    for step in run_ranks(watched_step, 2, config, ["zero.stage=1", SPIKES], timer=True):
        assert step.waits == NORM | {
            "deepspeed/utils/timer.py start: synchronize the device": ACCUMULATION,
            "deepspeed/utils/timer.py stop: synchronize the device": ACCUMULATION,
        }


def test_overlapping_communication_at_stage_2_would_wait_after_each_micro_batch(tiny_dataset, tmp_path):
    """Why `overlap_comm` is off there. If this fails, look at it again."""
    words = ["zero.stage=2", SPIKES, "zero.deepspeed.zero_optimization.overlap_comm=true"]
    place = "deepspeed/runtime/zero/stage_1_and_2.py independent_gradient_partition_epilogue"
    for step in run_ranks(watched_step, 2, write_run(tmp_path, tiny_dataset), words):
        assert step.waits == NORM | {f"{place}: synchronize the device": ACCUMULATION}
