"""An estimate of the memory that training needs on each rank; docs/design/preflight.md says how good it is.

Weights, gradients and optimizer state after Rajbhandari et al. 2020 (ZeRO), with what DeepSpeed 0.19 holds;
activations after Korthikanti et al. 2022, for this model; and the logits, which at GPT-2's vocabulary are the
largest tensors of all. The moment that counts is the beginning of the backward pass. Left out: the CUDA context,
NCCL's buffers and what the allocator cannot use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt2dist.config import Config
from gpt2dist.model.chunks import chunk_rows
from gpt2dist.model.shape import Shape
from gpt2dist.plan import Plan
from gpt2dist.training.deepspeed_config import BUCKET_ELEMENTS, deepspeed_config

LIVE_PARAMETERS = 1_000_000_000
"""DeepSpeed's default `stage3_max_live_parameters`, and the distance within which they are not given up."""
STATES = ("weights", "gradients", "optimizer", "buckets")


@dataclass(frozen=True)
class MemoryInputs:
    """What the memory of a rank depends on.

    Attributes:
        shape: The model.
        sequence_length: Tokens per window.
        micro_batch_size: Windows per forward pass.
        world_size: Ranks.
        stage: Of ZeRO.
        precision: As in the configuration.
        fp32_accumulation: Whether gradients of a 16-bit model are summed in fp32.
        bucket_elements: Elements of the buffers in which stages 1 to 3 collect gradients before they are sent.
        live_parameters: Parameters that stage 3 keeps gathered.
        offload_optimizer: Where the moments and fp32 weights are: none (the device), cpu or nvme.
        offload_parameters: The same for the weights of stage 3.
        attention: As in the configuration; "eager" stores the matrix of attention.
        dropout: Whether there is any.
        activation_checkpointing: Whether blocks are computed again in the backward pass.
        loss: As in the configuration.
    """

    shape: Shape
    sequence_length: int
    micro_batch_size: int
    world_size: int = 1
    stage: int = 0
    precision: str = "fp32"
    fp32_accumulation: bool = True
    bucket_elements: int = BUCKET_ELEMENTS
    live_parameters: int = LIVE_PARAMETERS
    offload_optimizer: str = "none"
    offload_parameters: str = "none"
    attention: str = "sdpa"
    dropout: bool = False
    activation_checkpointing: bool = False
    loss: str = "plain"

    @property
    def parameters(self) -> int:
        """Parameters in memory, the padding of the vocabulary included."""
        return self.shape.padded_parameters

    @property
    def tokens(self) -> int:
        """Tokens per forward pass."""
        return self.micro_batch_size * self.sequence_length

    @property
    def width(self) -> int:
        """Bytes of a weight and of an element of the residual stream."""
        return 2 if self.precision in ("bf16", "fp16") else 4


@dataclass(frozen=True)
class Part:
    """A part of a rank's memory.

    Attributes:
        name: What is held.
        device: Bytes on the device.
        host: Bytes in the memory of the host, where it is offloaded there.
        what: What it consists of.
    """

    name: str
    device: int
    host: int
    what: str


def setting_of(config: Config, plan: Plan) -> MemoryInputs:
    """What the memory of a run depends on."""
    settings = deepspeed_config(config, plan.accumulation, plan.shape.padded_parameters)
    zero = settings["zero_optimization"]
    return MemoryInputs(
        shape=plan.shape,
        sequence_length=plan.sequence_length,
        micro_batch_size=config.batch.micro_batch_size,
        world_size=plan.world_size,
        stage=config.zero.stage,
        precision=config.precision,
        fp32_accumulation=settings.get("data_types", {}).get("grad_accum_dtype") == "fp32",
        bucket_elements=_whole(zero, "reduce_bucket_size", BUCKET_ELEMENTS),
        live_parameters=_whole(zero, "stage3_max_live_parameters", LIVE_PARAMETERS),
        offload_optimizer=config.zero.offload_optimizer,
        offload_parameters=config.zero.offload_parameters,
        attention=config.model.attention,
        dropout=config.model.dropout > 0,
        activation_checkpointing=config.model.activation_checkpointing,
        loss=config.model.loss,
    )


def _whole(raw: Mapping[str, Any], key: str, default: int) -> int:
    """A number among raw keys, which nobody has checked."""
    value = raw.get(key)
    return int(value) if isinstance(value, int | float) and value > 0 else default


def estimate(setting: MemoryInputs) -> tuple[Part, ...]:
    """The parts of a rank's memory at the beginning of the backward pass."""
    return (
        _weights(setting),
        _gradients(setting),
        _optimizer(setting),
        Part("buckets", _buckets(setting), 0, "gradients on their way to the other ranks"),
        Part("activations", _activations(setting), 0, "kept for the backward pass"),
        _largest_moment(setting),
    )


def total(parts: tuple[Part, ...], names: tuple[str, ...] = ()) -> int:
    """Bytes on the device of all parts, or of those with these names."""
    return sum(part.device for part in parts if not names or part.name in names)


def _placed(name: str, here: int, shard: int, place: str, what: str) -> Part:
    """A part whose shard may be elsewhere."""
    where = {"cpu": ", in host memory", "nvme": ", on NVMe"}.get(place, "")
    return Part(name, here + (shard if place == "none" else 0), shard if place == "cpu" else 0, f"{what}{where}")


def _weights(setting: MemoryInputs) -> Part:
    size, parameters = setting.width, setting.parameters
    if setting.stage == 3:
        live = size * min(parameters, setting.live_parameters)
        shard = size * _ceil(parameters, setting.world_size)
        what = "this rank's part, and those gathered for the pass"
        return _placed("weights", live, shard, setting.offload_parameters, what)
    return Part("weights", size * parameters, 0, f"{8 * size} bits")


def _gradients(setting: MemoryInputs) -> Part:
    size, parameters, stage = setting.width, setting.parameters, setting.stage
    summed = 4 if setting.fp32_accumulation else size
    if stage >= 2:
        shard = summed * _ceil(parameters, setting.world_size)
        return _placed("gradients", 0, shard, setting.offload_optimizer, f"this rank's part, {8 * summed} bits")
    if stage == 1 and setting.offload_optimizer != "none":
        return Part("gradients", summed * parameters, 0, f"{8 * summed} bits")
    if stage == 1 and summed != size:
        return Part("gradients", (size + summed) * parameters, 0, "16 bits, and their sums in fp32")
    return Part("gradients", size * parameters, 0, f"{8 * size} bits")


def _optimizer(setting: MemoryInputs) -> Part:
    if setting.stage == 0:
        return Part("optimizer", 8 * setting.parameters, 0, "AdamW's two moments, fp32")
    shard, what = 12, "this rank's part of fp32 weights and AdamW's moments"
    if setting.offload_optimizer != "none":
        # On the host the update has its gradient beside it, and at stages 1 and 2 the weights that go back.
        shard += 4 + (setting.width if setting.stage < 3 else 0)
    shard *= _ceil(setting.parameters, setting.world_size)
    return _placed("optimizer", 0, shard, setting.offload_optimizer, what)


def _buckets(setting: MemoryInputs) -> int:
    """DeepSpeed's bucket; what sums bf16 at stage 1 on the device has none."""
    offloaded, elements = setting.offload_optimizer != "none", setting.bucket_elements
    summed_apart = setting.fp32_accumulation and setting.width == 2
    if setting.stage == 0 or (setting.stage == 1 and summed_apart and not offloaded):
        return 0
    if offloaded and setting.stage < 3:  # and room for the largest gradient on its way to the host
        elements += max(setting.shape.padded_vocab_size, 4 * setting.shape.n_embd) * setting.shape.n_embd
    width = 4 if setting.stage == 1 and summed_apart else setting.width
    return width * elements


def _activations(setting: MemoryInputs) -> int:
    """What lies between the passes: the inputs of all blocks, or all that their backward pass needs."""
    unit, width = setting.tokens * setting.shape.n_embd, setting.width
    last = {"fp32": 8, "autocast_bf16": 6}.get(setting.precision, 4) * unit
    embedding = unit if setting.dropout else 0
    per_block = width * unit if setting.activation_checkpointing else _block(setting)
    if setting.activation_checkpointing and setting.attention == "eager":
        last += width * setting.tokens * setting.sequence_length  # the mask
    if setting.precision == "autocast_bf16":
        last += 2 * setting.shape.padded_vocab_size * setting.shape.n_embd
    return setting.shape.n_layer * per_block + last + embedding


def _block(setting: MemoryInputs) -> int:
    """What the backward pass of a block needs: 16 elements per token and width, most in 16 bits under autocast.

    They are the inputs of two norms, four linear layers and the activation function, and q, k and v. Autocast
    also keeps its 16-bit copies of the matrices.
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
    """What comes on top at the worst moment: the loss, or the backward pass of one block."""
    unit, rows = setting.tokens * setting.shape.n_embd, setting.shape.padded_vocab_size
    passing = 8 * setting.width * unit
    recomputed = _block(setting) if setting.activation_checkpointing else 0
    block = Part("one block", passing + recomputed, 0, "its backward pass")
    per_chunk = chunk_rows(rows)
    if setting.loss == "chunked" or (setting.loss == "auto" and setting.tokens > per_chunk):
        logits = min(setting.tokens, per_chunk) * rows * (8 if setting.precision == "fp32" else 10)
        weight_gradient = 4 * rows * setting.shape.n_embd
        loss = Part("loss", logits + weight_gradient + setting.width * unit, 0, "chunked: logits of one chunk")
    else:
        # log-softmax, its gradient and that of the loss, all fp32
        loss = Part("loss", 12 * setting.tokens * rows, 0, "logits and their gradient in fp32")
    return max(loss, block, key=lambda part: part.device)


def _ceil(number: int, parts: int) -> int:
    return -(-number // parts)
