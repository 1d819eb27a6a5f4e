"""Load the model to evaluate: a replica on every rank, or one partitioned across the ranks."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from gpt2dist import hub
from gpt2dist.checkpoint.shared_hashing import require_whole_model
from gpt2dist.distributed.gpu import supports_bf16
from gpt2dist.distributed.hosts import on_each_host
from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation.scoring import Forward
from gpt2dist.model.find_model import fingerprint, locate
from gpt2dist.model.numerics import fp32_products
from gpt2dist.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:  # see `load_model`
    from transformers import GPT2LMHeadModel

Dtype = Literal["fp32", "bf16", "tf32"]
"""How a model computes: "fp32" and "bf16" are the dtype of its weights and activations. "tf32" is fp32 with
products whose factors are rounded to TF32."""
TF32_CAPABILITY = (8, 0)
"""Compute capability of the first GPUs with TF32: Ampere."""


def require_dtype(dtype: str, device: torch.device) -> None:
    """Check that a device can compute in a dtype.

    Raises:
        UserError: It cannot, or the dtype is not one of `Dtype`.
    """
    if dtype not in get_args(Dtype):
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(get_args(Dtype))}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    if dtype == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < TF32_CAPABILITY):
        raise UserError(
            f"dtype tf32 needs an NVIDIA GPU of the Ampere generation or newer, not {name}; give fp32"
        )
    if dtype == "bf16" and device.type == "cuda" and not supports_bf16():
        raise UserError(f"dtype bf16: {name} has no bf16; give fp32")


def require_dtype_of_host(dtype: str) -> None:
    """Check a dtype before this rank has its device: whether a host without a GPU can compute in it.

    Raises:
        UserError: It cannot.
    """
    if not torch.cuda.is_available():
        require_dtype(dtype, torch.device("cpu"))


def locate_together(model: str | Path, world: World) -> Path:
    """Return the directory of a model, the same model on all ranks. Collective.

    Args:
        model: A checkpoint, a run directory (its newest checkpoint), a model directory or a hub name.
        world: This rank.

    Raises:
        UserError: The model does not exist, or it is not a GPT-2.
    """
    # Rank 0 decides, since a slower rank could find a newer checkpoint of an active run.
    found = on_each_host(world, lambda: locate(str(model)))
    if found.is_dir():
        return found
    # The cache of the hub is at another path on this host, where one rank has just filled it. The branch may have
    # moved since.
    return locate(hub.source_of(found) or str(model))


@dataclass(frozen=True)
class LoadedModel:
    """A model that scores and continues texts. All ranks use it together at ZeRO stage 3.

    Attributes:
        model: The model.
        device: Its device.
        dtype: How it computes.
        context_length: Its number of positions.
    """

    model: "GPT2LMHeadModel"
    device: torch.device
    dtype: Dtype
    context_length: int

    def score(
        self, tokens: Tensor, counted_from: Tensor, counted_to: Tensor, document_separator_id: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Score windows; see `model.pretrained.score`. The arguments may be on the CPU."""
        from gpt2dist.model.pretrained import score

        with fp32_products(self.dtype == "tf32", self.device):
            here = [each.to(self.device) for each in (tokens, counted_from, counted_to)]
            return score(self.model, here[0], here[1], here[2], document_separator_id)

    @torch.no_grad()
    def score_branches(
        self,
        tokens: Tensor,
        positions: Tensor,
        branches: Tensor | None,
        sources: Tensor,
        targets: Tensor,
        counted: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Score continuations that share a context; see `model.pretrained.score_branches`."""
        from gpt2dist.model.pretrained import score_branches

        with fp32_products(self.dtype == "tf32", self.device):
            return score_branches(
                self.model,
                tokens.to(self.device),
                positions.to(self.device),
                None if branches is None else branches.to(self.device),
                *(each.to(self.device) for each in (sources, targets, counted)),
            )

    def last_logits(self, tokens: Tensor, cache: Any, **padding: Tensor) -> Tensor:
        """Extend a cache; see `generation.generator.Generator.forward`."""
        with fp32_products(self.dtype == "tf32", self.device):
            return self.model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1, **padding).logits


@dataclass(frozen=True)
class FoundModel:
    """A model to evaluate, which a run may replace or delete meanwhile.

    Attributes:
        directory: The model directory.
        weights: Fingerprint of its weights.
        tokenizer: Its tokenizer.
    """

    directory: Path
    weights: str
    tokenizer: Tokenizer

    def recorded(self) -> dict[str, Any]:
        """Return what a result says of the model."""
        return {"model": self.weights, **hub.recorded_source(self.directory)}


def find_together(model: str | Path, world: World) -> FoundModel:
    """Find a model, the same on every rank, before it is loaded. Collective.

    The arguments and exceptions are those of `locate_together`.
    """
    directory = locate_together(model, world)
    return FoundModel(directory, world.on_main(lambda: fingerprint(directory)), Tokenizer.load(directory))


def load_forward(
    directory: Path,
    tokenizer: Tokenizer,
    document_separator_id: int | None,
    zero_stage: int,
    world: World,
    dtype: Dtype = "fp32",
) -> Forward:
    """Load a model for `score_windows`. Collective at ZeRO stage 3.

    Args:
        directory: The model directory.
        tokenizer: The model's tokenizer.
        document_separator_id: The token at which attention and positions restart; None if they never do.
        zero_stage: 3 partitions each parameter across the ranks; 0 gives each rank a replica.
        world: This rank.
        dtype: How the model computes.

    Raises:
        UserError: As `load_model`.
    """
    model = load_model(directory, tokenizer, zero_stage, world, dtype)
    return partial(model.score, document_separator_id=document_separator_id)


def load_model(
    directory: Path, tokenizer: Tokenizer, zero_stage: int, world: World, dtype: Dtype = "fp32"
) -> LoadedModel:
    """Load a model to score and continue texts. Collective at ZeRO stage 3.

    Args:
        directory: The model directory.
        tokenizer: The model's tokenizer.
        zero_stage: 3 partitions each parameter across the ranks; 0 gives each rank a replica.
        world: This rank.
        dtype: How the model computes.

    Raises:
        UserError: The stage is another one, the device cannot compute in the dtype, the model cannot be loaded,
            or its vocabulary is smaller than its tokenizer's.
    """
    require_dtype(dtype, world.device)
    if zero_stage not in (0, 3):
        raise UserError(f"evaluation does not support ZeRO stage {zero_stage}; give 0 or 3")
    # Imported here: a run that evaluates as it trains has its own model, and does not need transformers.
    from gpt2dist.model.onednn import use_onednn
    from gpt2dist.model.pretrained import load_pretrained, require_vocabulary

    require_whole_model(directory, world, each_host=True)
    weights = torch.bfloat16 if dtype == "bf16" else torch.float32
    if zero_stage == 3:
        from gpt2dist.evaluation.zero3_forward import load_partitioned

        model = load_partitioned(directory, world, weights)
    else:
        model = load_pretrained(directory, world.device, weights)
        if world.device.type == "cpu" and dtype == "fp32":
            use_onednn(model)
    require_vocabulary(model, tokenizer.vocab_size, directory)
    return LoadedModel(model, world.device, dtype, model.config.n_positions)
