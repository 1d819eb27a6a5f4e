"""Estimate the memory that training needs on each rank. docs/design/preflight.md describes the accuracy.

Weights, gradients and optimizer state follow Rajbhandari et al. 2020 (ZeRO), adapted to DeepSpeed 0.19.
Activations follow Korthikanti et al. 2022, adapted to this model. The logits are the largest tensors at GPT-2's
vocabulary. Memory peaks at the start of the backward pass. The estimate omits the CUDA context, NCCL's buffers
and the allocator's fragmentation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpt2dist.config import Config
from gpt2dist.model.chunks import chunk_rows
from gpt2dist.model.huggingface import parameter_shapes
from gpt2dist.model.shape import Shape
from gpt2dist.plan import Plan
from gpt2dist.training.deepspeed_config import BUCKET_ELEMENTS, deepspeed_config
from gpt2dist.training.optimizers import optimizer_kind
from gpt2dist.training.optimizers.base import STATE_BYTES, state_bytes

LIVE_PARAMETERS = 1_000_000_000
"""DeepSpeed's default of both `stage3_max_live_parameters` and `stage3_max_reuse_distance`."""
SUB_GROUP = 1_000_000_000
"""DeepSpeed's default `sub_group_size`: parameters that stage 3 updates at a time."""
STATES = ("weights", "gradients", "optimizer", "buckets")


@dataclass(frozen=True)
class MemoryInputs:
    """Everything that determines the memory of a rank.

    Attributes:
        shape: Shape of the model.
        sequence_length: Tokens per window.
        micro_batch_size: Windows per forward pass.
        world_size: Number of ranks.
        stage: ZeRO stage.
        precision: As in the configuration.
        fp32_accumulation: Whether gradients of a 16-bit model are accumulated in fp32.
        reduce_dtype: Data type in which gradients are summed over the ranks, as in the configuration.
        bucket_elements: Elements of the buffers in which stages 1 to 3 collect gradients for communication.
        live_parameters: Parameters that stage 3 keeps gathered.
        offload_optimizer: Location of the optimizer state and fp32 weights: none (the device), cpu or nvme.
        offload_parameters: Location of the weights at stage 3, likewise.
        attention: As in the configuration; "eager" stores the attention matrix.
        dropout: Whether the model uses dropout.
        activation_checkpointing: Whether blocks are recomputed in the backward pass.
        loss: As in the configuration.
        state_tensors: State tensors of the optimizer per parameter, on average: 2 for AdamW.
        pinned: Whether the device is a GPU, for which offloaded tensors are in pinned host memory.
    """

    shape: Shape
    sequence_length: int
    micro_batch_size: int
    world_size: int = 1
    stage: int = 0
    precision: str = "fp32"
    fp32_accumulation: bool = True
    reduce_dtype: str = "fp32"
    bucket_elements: int = BUCKET_ELEMENTS
    live_parameters: int = LIVE_PARAMETERS
    offload_optimizer: str = "none"
    offload_parameters: str = "none"
    attention: str = "sdpa"
    dropout: bool = False
    activation_checkpointing: bool = False
    loss: str = "plain"
    state_tensors: float = 2.0
    pinned: bool = True

    @property
    def parameters(self) -> int:
        """The number of parameters in memory, including the padding of the vocabulary."""
        return self.shape.padded_parameters

    @property
    def shard(self) -> int:
        """Parameters that this rank updates."""
        return _ceil(self.parameters, 1 if self.stage == 0 else self.world_size)

    @property
    def largest_parameter(self) -> int:
        """Elements of the largest parameter: the embedding, or a matrix of a block."""
        return max(self.shape.padded_vocab_size, 4 * self.shape.n_embd) * self.shape.n_embd

    @property
    def tokens(self) -> int:
        """Tokens per forward pass."""
        return self.micro_batch_size * self.sequence_length

    @property
    def width(self) -> int:
        """Bytes per weight and per element of the residual stream."""
        return 2 if self.precision in ("bf16", "fp16") else 4

    @property
    def reduce_width(self) -> int:
        """Bytes per element of a gradient that is summed over the ranks."""
        return 4 if self.reduce_dtype == "fp32" else 2

    @property
    def sums_apart(self) -> bool:
        """Whether 16-bit gradients are accumulated in fp32 in memory of their own."""
        return self.fp32_accumulation and self.width == 2

    @property
    def gathered(self) -> int:
        """Bytes of the weights that stage 3 gathers for a pass."""
        return self.width * min(self.parameters, self.live_parameters) if self.stage == 3 else 0


@dataclass(frozen=True)
class Part:
    """One part of a rank's memory.

    Attributes:
        name: Name of the part.
        device: Bytes on the device.
        host: Bytes in host memory, if the part is offloaded there.
        what: Description of its content.
    """

    name: str
    device: int
    host: int
    what: str


def memory_inputs(config: Config, plan: Plan) -> MemoryInputs:
    """Return the inputs of the estimate for a run."""
    settings = deepspeed_config(config, plan.accumulation, plan.shape.padded_parameters, plan.world_size)
    zero = settings["zero_optimization"]
    return MemoryInputs(
        shape=plan.shape,
        sequence_length=plan.sequence_length,
        micro_batch_size=config.batch.micro_batch_size,
        world_size=plan.world_size,
        stage=config.zero.stage,
        precision=config.precision,
        fp32_accumulation=settings.get("data_types", {}).get("grad_accum_dtype") == "fp32",
        reduce_dtype=config.zero.reduce_dtype,
        bucket_elements=_integer_setting(zero, "reduce_bucket_size", BUCKET_ELEMENTS),
        live_parameters=_integer_setting(zero, "stage3_max_live_parameters", LIVE_PARAMETERS),
        offload_optimizer=config.zero.offload_optimizer,
        offload_parameters=config.zero.offload_parameters,
        attention=config.model.attention,
        dropout=config.model.dropout > 0,
        activation_checkpointing=config.model.activation_checkpointing,
        loss=config.model.loss,
        state_tensors=_state_tensors(config, plan.shape),
    )


def _state_tensors(config: Config, shape: Shape) -> float:
    """Return the mean number of state tensors per parameter in memory, the vocabulary's padding included."""
    padded = replace(shape, vocab_size=shape.padded_vocab_size)
    size = state_bytes(optimizer_kind(config), parameter_shapes(padded))
    return size / STATE_BYTES / padded.parameters


def _integer_setting(raw: Mapping[str, Any], key: str, default: int) -> int:
    """Return a positive number from raw DeepSpeed keys, which are not validated, or the default."""
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return int(value) if value > 0 else default


def estimate(setting: MemoryInputs) -> tuple[Part, ...]:
    """Return the parts of a rank's memory at the start of the backward pass."""
    return (
        _weights(setting),
        _gradients(setting),
        _optimizer(setting),
        Part("buckets", _buckets(setting), 0, "buffer for the communication of gradients"),
        Part("activations", _activations(setting), 0, "kept for the backward pass"),
        _largest_moment(setting),
    )


def total(parts: tuple[Part, ...], names: tuple[str, ...] = ()) -> int:
    """Return the device bytes of all parts, or of those with the given names."""
    return sum(part.device for part in parts if not names or part.name in names)


def _placed(name: str, here: int, shard: int, place: str, what: str) -> Part:
    """Return a part of `here` bytes on the device and a shard that may be offloaded to `place`."""
    where = {"cpu": ", in host memory", "nvme": ", on NVMe"}.get(place, "")
    return Part(name, here + (shard if place == "none" else 0), shard if place == "cpu" else 0, f"{what}{where}")


def _weights(setting: MemoryInputs) -> Part:
    size, parameters = setting.width, setting.parameters
    if setting.stage == 3:
        shard = size * setting.shard
        what = "this rank's part, and those gathered for the pass"
        return _placed("weights", setting.gathered, shard, setting.offload_parameters, what)
    return Part("weights", size * parameters, 0, f"{8 * size} bits")


def _gradients(setting: MemoryInputs) -> Part:
    size, parameters, stage = setting.width, setting.parameters, setting.stage
    summed = 4 if setting.fp32_accumulation else size
    if stage >= 2:
        shard, place = summed * setting.shard, setting.offload_optimizer
        if stage == 3 and place == "cpu":
            shard = _pinned(setting, shard)
        return _placed("gradients", 0, shard, place, f"this rank's part, {8 * summed} bits")
    if stage == 1 and setting.offload_optimizer != "none":
        return Part("gradients", summed * parameters, 0, f"{8 * summed} bits")
    if stage == 1 and summed != size:
        return Part("gradients", (size + summed) * parameters, 0, "16 bits, and their sums in fp32")
    return Part("gradients", size * parameters, 0, f"{8 * size} bits")


def _optimizer(setting: MemoryInputs) -> Part:
    state, shard = STATE_BYTES * setting.state_tensors, setting.shard
    if setting.stage == 0:
        return Part("optimizer", round(state * setting.parameters), 0, "its state, fp32")
    what = "this rank's part of fp32 weights and optimizer state"
    if setting.offload_optimizer == "none":
        return Part("optimizer", round((4 + state) * shard), 0, what)
    # The host also holds the gradients, and at stages 1 and 2 the updated weights to be copied back. DeepSpeed
    # pins both, and at these stages the fp32 weights. Stage 3 pins the gradients of a sub-group.
    pinned = [4, 4, setting.width] if setting.stage < 3 else [4]
    size = round(state * shard) + sum(_pinned(setting, each * shard) for each in pinned)
    size += 4 * shard if setting.stage == 3 else 0
    return _placed("optimizer", 0, size, setting.offload_optimizer, what)


def _pinned(setting: MemoryInputs, size: int) -> int:
    """Return the bytes that torch allocates for a pinned tensor: the next power of two.

    `CachingHostAllocatorImpl::allocate` in ATen/core/CachingHostAllocator.h of torch 2.13.
    """
    return 1 << (size - 1).bit_length() if setting.pinned and size else size


def _buckets(setting: MemoryInputs) -> int:
    """Return the bytes of DeepSpeed's gradient bucket.

    At stage 1, an optimizer that accumulates 16-bit gradients in fp32 on the device has no bucket.
    """
    offloaded, elements = setting.offload_optimizer != "none", setting.bucket_elements
    if not _bucket_width(setting):
        return 0
    if offloaded and setting.stage < 3:  # the largest gradient is buffered on its way to the host
        elements += setting.largest_parameter
    return _bucket_width(setting) * elements


def _bucket_width(setting: MemoryInputs) -> int:
    """Return the bytes per element of DeepSpeed's gradient bucket; 0 if there is none."""
    if setting.stage == 0 or (setting.stage == 1 and setting.sums_apart and setting.offload_optimizer == "none"):
        return 0
    if setting.stage == 3:
        return setting.reduce_width
    return 4 if setting.stage == 1 and setting.sums_apart else setting.width


def _reduction(setting: MemoryInputs) -> Part:
    """Return the copies with which DeepSpeed sums a bucket, less what has been freed by then.

    It sums the first bucket early in the backward pass, and at its end the last one, or the embedding, which
    may be larger. By then stage 2 holds this rank's gradients of the micro-batch beside those accumulated before,
    unless it adds each bucket to fp32 sums.
    """
    width, reduce_width, size = _bucket_width(setting), setting.reduce_width, setting.width
    bucket = min(setting.parameters, setting.bucket_elements if width else BUCKET_ELEMENTS)
    joined = width or (4 if setting.sums_apart else size)
    converted = reduce_width if reduce_width != joined else 0
    in_bucket = size if setting.stage == 1 and width else 0  # these gradients have moved to the bucket
    freed = _activations(setting) + (setting.gathered if setting.world_size > 1 else 0)
    first = (joined + converted - in_bucket) * bucket - round(freed * bucket / setting.parameters)
    last = (joined + converted - in_bucket) * max(bucket, setting.largest_parameter) - freed
    if setting.stage == 2 and not setting.sums_apart:
        last += size * setting.shard
    copies = max(0, first, last if bucket < setting.parameters else 0)
    return Part("reduction", copies, 0, "copies of gradients to sum over the ranks")


def _update(setting: MemoryInputs) -> Part:
    """Return the flat copy of this rank's gradients that its update needs, less what has been freed by then.

    Stages 1 and 2 join the gradients unless they were summed apart, and convert 16-bit ones to fp32. Stage 3
    does so for a sub-group.
    """
    copies, freed = 0, _activations(setting)
    if setting.offload_optimizer != "none" or setting.stage == 0:
        return Part("update", 0, 0, "")
    if setting.stage == 3:
        copies, freed = 4 * min(setting.shard, SUB_GROUP), freed + setting.gathered
    elif not setting.sums_apart:
        copies = (4 if setting.width == 4 else setting.width + 4) * setting.shard
        freed += _buckets(setting)
        if setting.stage == 1:
            freed += setting.width * (setting.parameters - setting.shard)
    return Part("update", max(0, copies - freed), 0, "flat copy of this rank's gradients")


def _activations(setting: MemoryInputs) -> int:
    """Return the bytes kept for the backward pass: the inputs of all blocks, or all that their gradients need."""
    unit, width = setting.tokens * setting.shape.n_embd, setting.width
    last = {"fp32": 8, "autocast_bf16": 6}.get(setting.precision, 4) * unit
    embedding = unit if setting.dropout else 0
    per_block = width * unit if setting.activation_checkpointing else _block(setting)
    if setting.precision == "autocast_bf16":
        last += 2 * setting.shape.padded_vocab_size * setting.shape.n_embd
    return setting.shape.n_layer * per_block + last + embedding


def _block(setting: MemoryInputs) -> int:
    """Return the bytes that the backward pass of a block needs.

    It needs 16 elements per token and unit of width: the inputs of two norms, four linear layers and the
    activation function, and q, k and v. Under autocast most of them have 16 bits, and the 16-bit copies of the
    matrices are kept too.
    """
    unit, precision = setting.tokens * setting.shape.n_embd, setting.precision
    needed = ({"fp32": 64, "autocast_bf16": 36}.get(precision, 32) + (2 if setting.dropout else 0)) * unit
    if precision == "autocast_bf16":
        needed += 2 * 12 * setting.shape.n_embd**2
    if setting.attention != "eager":
        return needed
    matrix = setting.tokens * setting.sequence_length * setting.shape.n_head
    softmax = {"fp32": 4, "autocast_bf16": 6}.get(precision, 2)
    dropped = {"fp32": 5, "autocast_bf16": 1}.get(precision, 3) if setting.dropout else 0
    return needed + (softmax + dropped) * matrix


def _largest_moment(setting: MemoryInputs) -> Part:
    """Return the largest temporary peak: the loss, the backward pass of one block, or a sum over the ranks."""
    unit, rows = setting.tokens * setting.shape.n_embd, setting.shape.padded_vocab_size
    passing = 8 * setting.width * unit
    recomputed = _block(setting) if setting.activation_checkpointing else 0
    block = Part("one block", passing + recomputed, 0, "its backward pass")
    per_chunk = chunk_rows(rows)
    if setting.loss == "chunked" or (setting.loss == "auto" and setting.tokens > per_chunk):
        loss = Part(
            "loss", _chunked_loss(setting, min(setting.tokens, per_chunk)), 0, "chunked: logits of one chunk"
        )
    else:
        # The log-softmax, its gradient and the gradient of the logits are all fp32.
        loss = Part("loss", 12 * setting.tokens * rows, 0, "logits and their gradient in fp32")
    return max(loss, block, _reduction(setting), _update(setting), key=lambda part: part.device)


def _chunked_loss(setting: MemoryInputs, tokens: int) -> int:
    """Return the bytes of the chunked loss with `tokens` tokens per chunk.

    Forward: the logits, their log-softmax and its 16-bit gradient; the gradient of the weight in fp32, and on a
    GPU in 16 bits a product of the same size that is added to it; the gradient of the hidden states. Backward:
    the gradient of the weight, its product with that of the loss, and the latter in 16 bits.
    """
    rows, halved = setting.shape.padded_vocab_size, setting.precision != "fp32"
    weight, hidden = rows * setting.shape.n_embd, setting.width * setting.tokens * setting.shape.n_embd
    forward = tokens * rows * (10 if halved else 8) + weight * (8 if halved else 4)
    return hidden + max(forward, weight * (10 if halved else 8))


def _ceil(number: int, parts: int) -> int:
    return -(-number // parts)
