"""Models of transformers, for evaluation, generation and export: any GPT-2 in a model directory."""

import os
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor
from transformers import GPT2LMHeadModel

from gpt2dist import json_files
from gpt2dist.errors import RunError, UserError
from gpt2dist.model.find_model import weight_files
from gpt2dist.model.gpt2 import segment_positions
from gpt2dist.model.lm_head import Head
from gpt2dist.model.loss import counted_mask


def load_pretrained(directory: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> GPT2LMHeadModel:
    """Load a model for evaluation and generation, without dropout and with a `Head`.

    Args:
        directory: A model directory.
        device: Device of the model.
        dtype: Dtype of the weights and of the computation.

    Raises:
        UserError: The files cannot be read as the GPT-2 that config.json describes.
        RunError: transformers does not find a tensor in them.
    """
    weight_files(directory)
    _require_generation_config(directory)
    transformers.utils.logging.disable_progress_bar()  # it would flash between ours
    transformers.utils.logging.set_verbosity_error()  # the checks before and after replace its warnings
    try:
        loaded: Any = GPT2LMHeadModel.from_pretrained(
            directory,
            attn_implementation="sdpa",
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # wrong values in config.json and generation_config.json raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{directory}: its model cannot be loaded ({reason}); give another checkpoint") from error
    model, found = loaded
    if found["missing_keys"]:  # transformers filled these with random numbers
        raise RunError(f"{directory}: transformers does not find {min(found['missing_keys'])} in its files")
    model.lm_head = Head(model.lm_head.weight, model.config.vocab_size)
    return model.to(device).eval()


def _require_generation_config(directory: Path) -> None:
    """Check generation_config.json, if there is one: transformers reads it, too."""
    path = directory / "generation_config.json"
    if os.path.lexists(path):
        json_files.require(path, "copy the model again, or give another")


def require_vocabulary(model: GPT2LMHeadModel, vocab_size: int, directory: Path) -> None:
    """Check that a model has an embedding for each id of the tokenizer in its directory.

    Raises:
        UserError: The model has fewer embeddings than the tokenizer has tokens.
    """
    if model.config.vocab_size < vocab_size:
        raise UserError(
            f"{directory}: its model has {model.config.vocab_size} tokens, its tokenizer {vocab_size}; replace "
            "the tokenizer by the one that the model was trained with"
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
    head = cast(Head, model.lm_head)
    return head.each_nll(_hidden(model, inputs, document_separator_id), targets, counted)


def score_branches(
    model: GPT2LMHeadModel,
    tokens: Tensor,
    positions: Tensor,
    branches: Tensor | None,
    sources: Tensor,
    targets: Tensor,
    counted: Tensor,
) -> tuple[Tensor, Tensor]:
    """Score several continuations of one context in a row, which computes the context once.

    Args:
        model: A model whose output layer is a `Head`.
        tokens: [B, L] int64, inputs: a context, then its continuations one after another.
        positions: [B, L] int64, position of each input in the text of its continuation.
        branches: [B, L] int64, 0 in the context, k in the k-th continuation, which attends to itself and to the
            context alone. None if no row has more than one continuation.
        sources: [B, T] int64, the input that predicts each target.
        targets: [B, T] int64.
        counted: [B, T] bool, which targets count; the others are padding.

    Returns:
        The nll [B, T] fp32 in nats, 0 where a target does not count, and [B, T] bool, whether the target is the
        likeliest token.
    """
    inputs: dict[str, Tensor] = {}
    if branches is not None:
        before = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device).tril()
        visible = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
        inputs = {"position_ids": positions, "attention_mask": (visible & before)[:, None]}
    hidden = model.transformer(input_ids=tokens, use_cache=False, **inputs).last_hidden_state
    of_sources = hidden.gather(1, sources[..., None].expand(-1, -1, hidden.shape[-1]))
    return cast(Head, model.lm_head).each_nll(of_sources, targets, counted)


def _hidden(model: GPT2LMHeadModel, tokens: Tensor, document_separator_id: int | None) -> Tensor:
    """Return the hidden states [B, L, D]. Where positions restart, transformers restarts attention."""
    positions = None if document_separator_id is None else segment_positions(tokens, document_separator_id)
    return model.transformer(input_ids=tokens, position_ids=positions, use_cache=False).last_hidden_state
