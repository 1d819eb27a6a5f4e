"""Determine and check the model's shape and the lengths of its windows."""

from collections.abc import Iterator
from dataclasses import dataclass

from gpt2dist.config import Config, Problem
from gpt2dist.model.shape import PRESET_CONTEXT_LENGTH, PRESETS, Shape
from gpt2dist.preflight.messages import alternatives, divisors

VARLEN_HEAD_MULTIPLE, VARLEN_HEAD_LIMIT = 8, 256
"""Head sizes of torch's flash attention."""


@dataclass(frozen=True)
class Lengths:
    """Lengths in tokens, with defaults filled in; 0 if unknown.

    Attributes:
        context: Positions of the model.
        sequence: Tokens per window.
        stride: Tokens from window to window in training.
        evaluation_stride: Tokens from window to window in validation.
    """

    context: int
    sequence: int
    stride: int
    evaluation_stride: int


def lengths_of(config: Config) -> Lengths:
    """Return the lengths of a run. A training stride above the window is clamped; `check_lengths` reports it."""
    given = config.data.sequence_length
    preset = PRESET_CONTEXT_LENGTH if config.model.preset else given
    context = config.model.context_length or preset or 0
    sequence = given or context
    stride = min(config.data.stride or max(1, sequence // 2), sequence)
    return Lengths(context, sequence, stride, config.evaluation.stride or stride)


def shape_of(config: Config, lengths: Lengths, vocab_size: int) -> Shape:
    """Return the shape of a model whose configuration passed `check_model`."""
    n_layer, n_head, n_embd = _sizes(config)
    assert n_layer and n_head and n_embd
    return Shape(n_layer, n_head, n_embd, lengths.context, vocab_size)


def check_model(config: Config) -> Iterator[Problem]:
    """Check the sizes of the model."""
    n_layer, n_head, n_embd = _sizes(config)
    if not (n_layer or n_head or n_embd):
        missing = f"missing; set it to {alternatives(PRESETS)}, or set model.n_layer, n_head and n_embd"
        yield Problem("model.preset", missing, also=("model.n_layer", "model.n_head", "model.n_embd"))
        return
    for key, value in (("n_layer", n_layer), ("n_head", n_head), ("n_embd", n_embd)):
        if value is None:
            missing = f"missing; set it, or set model.preset to {alternatives(PRESETS)}"
            yield Problem(f"model.{key}", missing, also=("model.preset",))
    if n_head and n_embd and n_embd % n_head:
        close = sorted(divisors(n_embd), key=lambda heads: abs(heads - n_head))[:3]
        yield Problem(
            "model.n_head",
            f"{n_head} does not divide n_embd {n_embd}; {alternatives(sorted(close))} would",
            also=("model.n_embd", "model.preset"),
        )


def check_lengths(config: Config, lengths: Lengths) -> Iterator[Problem]:
    """Check the lengths of windows and strides."""
    data, length = config.data, lengths.sequence
    model = ("model.context_length", "model.preset", "model.init_from")
    if not length:
        yield Problem("data.sequence_length", "missing; set it (tokens per window)", also=model)
        return
    if length > lengths.context:
        yield Problem(
            "data.sequence_length",
            f"{length} is more than the {lengths.context} positions of the model; "
            "lower it, or raise model.context_length",
            also=model,
        )
    for key, stride in (("data.stride", data.stride), ("evaluation.stride", config.evaluation.stride)):
        if stride and stride > length:
            yield Problem(
                key,
                f"{stride} would skip tokens; it must be at most data.sequence_length {length}",
                also=("data.sequence_length", *model),
            )


def check_kernels(config: Config) -> Iterator[Problem]:
    """Check that compilation and the attention kernel are compatible with the rest of the configuration."""
    model = config.model
    if model.compile and config.zero.stage == 3:
        yield Problem(
            "model.compile",
            "ZeRO stage 3 gathers parameters in hooks, which break the compiled graph at each layer and make "
            "training slower; set zero.stage to 0, 1 or 2, or model.compile to false",
            also=("zero.stage",),
        )
    if model.attention not in ("varlen", "flash_attention_2"):
        return
    if config.precision == "fp32":
        yield Problem(
            "model.attention",
            f"{model.attention} computes in 16 bits, precision is fp32; set precision to bf16, fp16 or "
            "autocast_bf16, or model.attention to sdpa",
            also=("precision",),
        )
    if model.attention == "varlen":
        yield from _check_varlen(config)
    elif config.data.document_boundaries == "isolate":
        yield Problem(
            "model.attention",
            "flash_attention_2 cannot isolate the documents of a window; "
            "set model.attention to sdpa, or data.document_boundaries to pack",
            also=("data.document_boundaries",),
        )


def _check_varlen(config: Config) -> Iterator[Problem]:
    """Check what torch's kernel for documents of different lengths lacks."""
    if config.model.dropout:
        yield Problem(
            "model.attention",
            f"varlen has no dropout, model.dropout is {config.model.dropout:g}; set it to 0, or model.attention "
            "to sdpa",
            also=("model.dropout",),
        )
    _, n_head, n_embd = _sizes(config)
    size = n_embd // n_head if n_embd and n_head else VARLEN_HEAD_MULTIPLE
    if size % VARLEN_HEAD_MULTIPLE or size > VARLEN_HEAD_LIMIT:
        yield Problem(
            "model.attention",
            f"varlen takes heads whose size is a multiple of {VARLEN_HEAD_MULTIPLE} up to {VARLEN_HEAD_LIMIT}, "
            f"n_embd / n_head is {size}; change them, or set model.attention to sdpa",
            also=("model.n_head", "model.n_embd", "model.preset"),
        )


def _sizes(config: Config) -> tuple[int | None, int | None, int | None]:
    model = config.model
    n_layer, n_head, n_embd = PRESETS[model.preset] if model.preset else (None, None, None)
    return model.n_layer or n_layer, model.n_head or n_head, model.n_embd or n_embd
