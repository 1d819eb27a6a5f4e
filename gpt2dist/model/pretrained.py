"""Models of transformers, for evaluation, generation and export: any GPT-2 in a model directory."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import GPT2LMHeadModel

from gpt2dist import json_files
from gpt2dist.errors import UserError
from gpt2dist.model.find_model import weight_files
from gpt2dist.model.gpt2 import segment_positions
from gpt2dist.model.huggingface import BUFFERS, PREFIX, Pretrained, bare_name, require_match
from gpt2dist.model.lm_head import Head
from gpt2dist.model.loss import counted_mask

FLOATS = ("F64", "F32", "F16", "BF16")
"""The dtypes of weights in safetensors files."""


def load_pretrained(directory: Path, device: torch.device) -> GPT2LMHeadModel:
    """Load a model for evaluation and generation, in fp32, without dropout and with a `Head`.

    Raises:
        UserError: The files cannot be read as a GPT-2.
    """
    require_readable(directory)
    transformers.utils.logging.disable_progress_bar()  # it would flash between ours
    transformers.utils.logging.set_verbosity_error()  # what it would warn about is refused below
    try:
        loaded: Any = GPT2LMHeadModel.from_pretrained(
            directory,
            attn_implementation="sdpa",
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
        )
    except Exception as error:  # wrong values in config.json and generation_config.json raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{directory}: its model cannot be loaded ({reason}); give another checkpoint") from error
    model, found = loaded
    # transformers would fill these with random numbers.
    missing = [*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]
    require_match(directory, missing, found["unexpected_keys"])
    model.lm_head = Head(model.lm_head.weight, model.config.vocab_size)
    return model.to(device).eval()


def require_readable(directory: Path) -> None:
    """Check the files that transformers is about to read.

    Raises:
        UserError: A file is malformed, or the shapes of the weights are not those of config.json.
    """
    shape = Pretrained.read(directory).shape
    generation = directory / "generation_config.json"
    if os.path.lexists(generation):
        json_files.require(generation, "copy the model again, or give another")
    shapes = _shapes(weight_files(directory))
    sizes = {"wte.weight": [shape.vocab_size, shape.n_embd], "wpe.weight": [shape.context_length, shape.n_embd]}
    sizes |= {f"h.{shape.n_layer - 1}.ln_1.weight": [shape.n_embd]}
    # A config.json of absurd sizes would take all memory before transformers compares the weights.
    require_match(directory, [PREFIX + name for name, size in sizes.items() if shapes.get(name) != size], [])


def _shapes(paths: Iterable[Path]) -> dict[str, list[int]]:
    """Return the shapes of the tensors in safetensors files, by bare name."""
    shapes: dict[str, list[int]] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                dtypes = {name: tensor.get_dtype() for name, tensor in tensors.items()}
                shapes |= {bare_name(name): list(tensor.get_shape()) for name, tensor in tensors.items()}
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(
                f"{path}: not a safetensors file ({json_files.reason(error)}); copy it again"
            ) from error
        for name, dtype in dtypes.items():
            if dtype not in FLOATS and not name.endswith(BUFFERS):
                raise UserError(f"{path}: its tensor {name} is {dtype}, not of floating point; copy it again")
    return shapes


def require_vocabulary(model: GPT2LMHeadModel, vocab_size: int, directory: Path) -> None:
    """Check that a model knows all ids of the tokenizer in its directory.

    Raises:
        UserError: The model has fewer embeddings than the tokenizer has tokens.
    """
    if model.config.vocab_size < vocab_size:
        raise UserError(
            f"{directory}: its model knows {model.config.vocab_size} tokens, its tokenizer has {vocab_size}; "
            "put the tokenizer there that the model was trained with"
        )


def logits(model: GPT2LMHeadModel, tokens: Tensor, document_separator_id: int | None = None) -> Tensor:
    """Return the logits [B, L, V] of tokens [B, L] of any integer dtype.

    Args:
        model: The model.
        tokens: The tokens.
        document_separator_id: The token that starts a document, which attends to nothing before it; None treats
            a row as one text.
    """
    return model.lm_head(_hidden(model, tokens.long(), document_separator_id))


def score(
    model: GPT2LMHeadModel,
    tokens: Tensor,
    counted_from: Tensor,
    counted_to: Tensor,
    document_separator_id: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Score each target of a micro-batch, as `LanguageModel.score` does.

    Args:
        model: A model whose output layer is a `Head`.
        tokens: [B, L + 1], any integer dtype: inputs and, shifted by one, targets.
        counted_from: [B] int64, the first target that counts.
        counted_to: [B] int64, the end (exclusive) of the targets that count.
        document_separator_id: As for `logits`.

    Returns:
        The nll [B, L] fp32 in nats, 0 where a target does not count, and [B, L] bool, whether the target is the
        likeliest token.
    """
    inputs, targets = tokens[:, :-1].long(), tokens[:, 1:].long()
    counted = counted_mask(targets, counted_from, counted_to)
    head: Any = model.lm_head
    return head.each_nll(_hidden(model, inputs, document_separator_id), targets, counted)


def _hidden(model: GPT2LMHeadModel, tokens: Tensor, document_separator_id: int | None) -> Tensor:
    """Return the hidden states [B, L, D]. Where positions restart, transformers restarts attention."""
    positions = None if document_separator_id is None else segment_positions(tokens, document_separator_id)
    return model.transformer(input_ids=tokens, position_ids=positions, use_cache=False).last_hidden_state
