"""The estimate of activations and loss against what autograd keeps, and the sums by hand."""

import dataclasses

import pytest
import torch

from gpt2dist.model.gpt2 import LanguageModel
from gpt2dist.model.shape import PRESETS, Shape
from gpt2dist.preflight.memory import MemoryInputs, _integer_setting, estimate, total

SMALL = Shape(n_layer=4, n_head=4, n_embd=64, context_length=128, vocab_size=512)


def part(setting: MemoryInputs, name: str):
    return next(each for each in estimate(setting) if each.name == name)


def kept_by_autograd(setting: MemoryInputs) -> int:
    """Bytes that are saved for the backward pass, weights left out."""
    model = LanguageModel(
        setting.shape,
        0,
        attention=setting.attention,
        activation_checkpointing=setting.activation_checkpointing,
        loss=setting.loss,
    ).train()
    if setting.precision == "bf16":
        model = model.bfloat16()
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes(), tensor  # the tensor too: its place is not given away
        return tensor

    rows, length = setting.micro_batch_size, setting.sequence_length
    tokens = torch.randint(0, setting.shape.vocab_size, (rows, length + 1))
    bounds = torch.zeros(rows, dtype=torch.int64), torch.full((rows,), length)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=setting.precision == "autocast_bf16"),
    ):
        model.nll_sum(tokens, *bounds)
    return sum(size for size, _ in saved.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "autocast_bf16"])
def test_activations_are_what_autograd_keeps(precision, attention, checkpointing):
    setting = MemoryInputs(
        SMALL,
        sequence_length=128,
        micro_batch_size=4,
        precision=precision,
        attention=attention,
        activation_checkpointing=checkpointing,
    )
    log_softmax = 4 * setting.tokens * SMALL.padded_vocab_size
    estimated = part(setting, "activations").device + log_softmax
    assert estimated == pytest.approx(kept_by_autograd(setting), rel=0.02)


GPT2 = Shape(*PRESETS["gpt2-124m"], context_length=1024, vocab_size=50257)
PARAMETERS = 124_439_808 + 47 * 768  # with the padding of the vocabulary


def test_gpt2_by_hand():
    setting = MemoryInputs(GPT2, 1024, micro_batch_size=20, world_size=8, stage=1, precision="bf16")
    unit = 20 * 1024 * 768
    assert {each.name: each.device for each in estimate(setting)} == {
        "weights": 2 * PARAMETERS,
        "gradients": 6 * PARAMETERS,
        "optimizer": 12 * PARAMETERS / 8,
        "buckets": 0,
        "activations": (12 * 32 + 4) * unit,
        "loss": 12 * 20 * 1024 * 50304,
    }
    assert total(estimate(setting), ("weights", "optimizer")) == 3.5 * PARAMETERS


@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        ({"stage": 0}, "optimizer", 8 * PARAMETERS),
        ({"stage": 2, "precision": "bf16"}, "gradients", 4 * PARAMETERS / 8),
        ({"stage": 2, "precision": "fp16", "fp32_accumulation": False}, "gradients", 2 * PARAMETERS / 8),
        ({"stage": 2, "precision": "bf16"}, "buckets", 2 * 500_000_000),
        ({"stage": 3, "precision": "bf16"}, "buckets", 4 * 500_000_000),
        ({"stage": 3, "precision": "bf16", "reduce_dtype": "bf16"}, "buckets", 2 * 500_000_000),
        (
            {"stage": 2, "precision": "bf16", "activation_checkpointing": True},
            "reduction",
            (2 + 4) * PARAMETERS - (12 * 2 + 4) * 1024 * 768,
        ),
        (
            {"stage": 1, "precision": "bf16", "activation_checkpointing": True, "reduce_dtype": "bf16"},
            "reduction",
            (4 + 2) * PARAMETERS - (12 * 2 + 4) * 1024 * 768,
        ),
        ({"stage": 3, "precision": "bf16"}, "weights", 2 * PARAMETERS + 2 * PARAMETERS / 8),
        ({"stage": 3, "live_parameters": 1000}, "weights", 4000 + 4 * PARAMETERS / 8),
        ({"stage": 3, "offload_parameters": "cpu"}, "weights", 4 * PARAMETERS),
        ({"stage": 2, "offload_optimizer": "cpu"}, "optimizer", 0),
        ({"dropout": True}, "activations", (12 * (64 + 2) + 8 + 1) * 1024 * 768),
        # Softmax, its mask (one byte) and what comes of it: Korthikanti's 5 a s² b in 16 bits.
        (
            {"dropout": True, "attention": "eager", "precision": "bf16"},
            "activations",
            (12 * 34 + 4 + 1) * 1024 * 768 + 12 * 5 * 12 * 1024 * 1024,
        ),
        ({"activation_checkpointing": True}, "activations", (12 * 4 + 8) * 1024 * 768),
        ({"loss": "chunked"}, "loss", 8 * 640 * 50304 + 4 * 50304 * 768 + 4 * 1024 * 768),
        # The product of a chunk, in fp32, is a second tensor of the weight's shape.
        (
            {"loss": "chunked", "precision": "bf16"},
            "loss",
            10 * 640 * 50304 + 8 * 50304 * 768 + 2 * 1024 * 768,
        ),
        # The embedding is larger than the bucket. It is summed when all activations are freed.
        (
            {"stage": 2, "precision": "bf16", "activation_checkpointing": True, "bucket_elements": 10_000_000}
            | {"sequence_length": 16},
            "reduction",
            (2 + 4) * 50304 * 768 - (12 * 2 + 4) * 16 * 768,
        ),
        # Stage 2 in fp32 holds the shard of the micro-batch beside the sums of those before.
        (
            {"stage": 2, "sequence_length": 16, "bucket_elements": 40_000_000},
            "reduction",
            4 * 40_000_000 + 4 * PARAMETERS / 8 - (12 * 64 + 8) * 16 * 768,
        ),
        # The update joins the shard of the gradient; the bucket is free by then.
        (
            {"stage": 1, "world_size": 1, "sequence_length": 16, "bucket_elements": 40_000_000},
            "update",
            4 * PARAMETERS - 4 * 40_000_000 - (12 * 64 + 8) * 16 * 768,
        ),
        (
            {"stage": 2, "precision": "fp16", "fp32_accumulation": False, "reduce_dtype": "fp16"}
            | {"sequence_length": 16, "bucket_elements": 40_000_000, "world_size": 1},
            "update",
            (2 + 4) * PARAMETERS - 2 * 40_000_000 - (12 * 32 + 4) * 16 * 768,
        ),
    ],
)
def test_what_each_choice_changes(changes, name, expected):
    setting = dataclasses.replace(MemoryInputs(GPT2, 1024, micro_batch_size=1, world_size=8), **changes)
    assert part(setting, name).device == expected


def test_what_is_offloaded_is_on_the_host_unless_it_is_on_a_disk():
    setting = MemoryInputs(GPT2, 1024, 1, world_size=8, stage=3, precision="bf16", offload_optimizer="cpu")
    pinned = 2**26  # bytes: torch rounds 4 bytes for each gradient of the shard to a power of two
    assert 2**25 < 4 * PARAMETERS / 8 < pinned
    assert part(setting, "optimizer").host == 12 * PARAMETERS / 8 + pinned
    assert part(setting, "gradients").host == pinned
    stage_2 = dataclasses.replace(setting, stage=2)
    assert part(stage_2, "optimizer").host == 8 * PARAMETERS / 8 + 2 * pinned + pinned / 2
    not_pinned = dataclasses.replace(setting, pinned=False)
    assert part(not_pinned, "optimizer").host == (12 + 4) * PARAMETERS / 8
    on_disk = dataclasses.replace(setting, offload_optimizer="nvme")
    assert part(on_disk, "optimizer").host == part(on_disk, "optimizer").device == 0


def test_without_large_logits_the_backward_pass_of_a_block_is_the_largest_moment():
    setting = MemoryInputs(GPT2, 1024, 32, precision="bf16", loss="chunked", activation_checkpointing=True)
    assert part(setting, "one block").device == (8 * 2 + 32) * 32 * 1024 * 768


@pytest.mark.parametrize(("value", "expected"), [(7, 7), (7.5, 7), (True, 3), ("7", 3), (0, 3), (None, 3)])
def test_raw_keys_that_are_no_numbers_count_as_not_set(value, expected):
    assert _integer_setting({"sub_group_size": value}, "sub_group_size", 3) == expected
