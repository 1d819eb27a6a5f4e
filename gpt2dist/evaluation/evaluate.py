"""Evaluate a model on a text, and return the result as one JSON object."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation import measures
from gpt2dist.evaluation.held_out_text import HeldOut
from gpt2dist.evaluation.measure import Sums
from gpt2dist.evaluation.model_forward import Dtype, find_together, load_forward, require_dtype
from gpt2dist.evaluation.perplexity import score
from gpt2dist.evaluation.scoring import Forward, OnBatch, first_batch_loss, ignore
from gpt2dist.model.huggingface import Pretrained
from gpt2dist.tokenizer.tokenizer import Tokenizer

COMPARED_WINDOWS = 8
"""Largest number of windows that are scored in fp32, too, to measure the difference of another dtype. A whole
batch may fit into memory only in 16 bits."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Attributes:
        sequence_length: Tokens per window; None for the context length of the model.
        stride: Tokens between the starts of windows; None for half the sequence length.
        prefix: "end-of-text" prepends that token to the text, so that the first token is a target too.
        per_document: Whether to score each document separately, as lm-evaluation-harness does: each gets the
            prefix, and the end-of-text after it is not a target.
        document_boundaries: "isolate" restarts attention and positions at each end-of-text.
        batch_size: Windows per forward pass.
        zero_stage: 3 partitions the parameters across the ranks; 0 gives each rank a replica.
        measures: Measures to compute besides ours and those of installed packages, as `package.module:attribute`.
        dtype: How the model computes: "fp32", "bf16", or "tf32" on a GPU.
    """

    sequence_length: int | None = None
    stride: int | None = None
    prefix: Literal["none", "end-of-text"] = "none"
    per_document: bool = False
    document_boundaries: Literal["pack", "isolate"] = "pack"
    batch_size: int = 8
    zero_stage: Literal[0, 3] = 0
    measures: tuple[str, ...] = ()
    dtype: Dtype = "fp32"

    def lengths(self, context_length: int) -> tuple[int, int]:
        """Return the sequence length and the stride for a model with `context_length` positions.

        Raises:
            UserError: The sequence length, the stride or the batch size is out of range.
        """
        length = context_length if self.sequence_length is None else self.sequence_length
        if not 1 <= length <= context_length:
            raise UserError(
                f"a sequence length of {length} is not between 1 and the {context_length} positions of the model"
            )
        stride = max(1, length // 2) if self.stride is None else self.stride
        if not 1 <= stride <= length:
            raise UserError(f"a stride of {stride} is not between 1 and the sequence length {length}")
        if self.batch_size < 1:
            raise UserError(f"a batch size of {self.batch_size} is not at least 1")
        return length, stride


def evaluate(
    model: str | Path,
    text: HeldOut,
    setting: EvaluationConfig,
    world: World,
    on_batch: OnBatch = ignore,
    on_difference: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score every token of a text once. Collective.

    Args:
        model: A checkpoint, a run directory (its newest checkpoint), a model directory or a hub name.
        text: The text, in tokens of the model's tokenizer.
        setting: The settings of the evaluation.
        world: This rank, from `gpt2dist.distributed.world.join()`.
        on_batch: As in `score_windows`.
        on_difference: Called on every rank with the difference of another dtype from fp32, in words. To measure
            it, the start of the first batch is also scored in fp32. None measures nothing.

    Returns:
        The object that `gpt2dist evaluate` writes; see docs/guides/evaluation.md.

    Raises:
        UserError: The model cannot be loaded, the model, text and settings do not fit together, the device cannot
            compute in the dtype, or a measure cannot be used.
    """
    require_dtype(setting.dtype, world.device)
    wanted = measures.in_use("text", setting.measures)
    found = find_together(model, world)
    directory, tokenizer = found.directory, found.tokenizer
    require_same_tokenizer(text, tokenizer, model)
    how = conditions(directory, text, setting)
    document_separator_id = tokenizer.end_of_text_id if setting.document_boundaries == "isolate" else None
    load = partial(load_forward, directory, tokenizer, document_separator_id, setting.zero_stage, world)
    in_fp32 = None
    if on_difference and setting.dtype != "fp32":
        in_fp32 = _first_batch_loss(load("fp32"), text, how, setting)
        gc.collect()  # its memory is needed for the next one
    forward = load(setting.dtype)
    if on_difference and in_fp32:
        on_difference(_difference(setting.dtype, _first_batch_loss(forward, text, how, setting), in_fp32))
    began = time.monotonic()
    result = _score(forward, text, how, setting, world, on_batch)
    seconds = time.monotonic() - began
    return {
        **measures.record(result, wanted),
        **how,
        "windows": result.windows,
        "documents": text.totals.documents,
        **({"text_changes": text.text_changes} if text.text_changes else {}),
        "batch_size": setting.batch_size,
        "zero_stage": setting.zero_stage,
        "world_size": world.size,
        **found.recorded(),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(result.targets / seconds, 1),
    }


def _score(
    forward: Forward,
    text: HeldOut,
    how: dict[str, Any],
    setting: EvaluationConfig,
    world: World,
    on_batch: OnBatch,
) -> Sums:
    """Score the text in the windows of `how`, a result of `conditions`. Collective."""
    return score(
        forward,
        text,
        how["sequence_length"],
        how["stride"],
        setting.batch_size,
        world,
        setting.prefix == "end-of-text",
        setting.per_document,
        on_batch,
    )


def _first_batch_loss(
    forward: Forward, text: HeldOut, how: dict[str, Any], setting: EvaluationConfig
) -> tuple[float, int]:
    stream, windows = text.windows(
        how["sequence_length"], how["stride"], setting.prefix == "end-of-text", setting.per_document
    )
    return first_batch_loss(forward, stream, windows, min(setting.batch_size, COMPARED_WINDOWS))


def _difference(dtype: str, found: tuple[float, int], in_fp32: tuple[float, int]) -> str:
    """Describe the difference of two results of `_first_batch_loss`."""
    (loss, windows), (exact, _) = found, in_fp32
    return (
        f"dtype {dtype}: loss {loss:.6f} of the first {windows} windows, {exact:.6f} in fp32 "
        f"(difference {loss - exact:+.1e})"
    )


def conditions(directory: Path, text: HeldOut, setting: EvaluationConfig) -> dict[str, Any]:
    """Return the settings that two results must share to be points of one curve.

    Args:
        directory: The model directory.
        text: The text.
        setting: The settings of the evaluation.

    Raises:
        UserError: The settings do not fit the model.
    """
    length, stride = setting.lengths(Pretrained.read(directory).shape.context_length)
    return {
        "data": text.fingerprint,
        "split": text.split,
        "detokenizer": text.detokenizer,
        "tokenizer": text.tokenizer,
        "sequence_length": length,
        "stride": stride,
        "prefix": setting.prefix,
        "per_document": setting.per_document,
        "document_boundaries": setting.document_boundaries,
        "dtype": setting.dtype,
    }


def require_same_tokenizer(text: HeldOut, tokenizer: Tokenizer, model: str | Path) -> None:
    """Check that a text was tokenised with the model's tokenizer.

    Raises:
        UserError: The text was tokenised with another one, or its manifest describes that one wrongly.
    """
    if text.tokenizer != tokenizer.fingerprint:
        raise UserError(
            f"{text.name} was made with another tokenizer than {model}; "
            f"preprocess the text again with --tokenizer {model}"
        )
    stated = text.vocab_size or tokenizer.vocab_size, text.end_of_text_id
    if stated != (tokenizer.vocab_size, tokenizer.end_of_text_id):
        raise UserError(
            f"{text.name}: its manifest says vocab_size {stated[0]} and end_of_text_id {stated[1]}, its "
            f"tokenizer has {tokenizer.vocab_size} and {tokenizer.end_of_text_id}; copy the dataset again, or "
            "preprocess the text again"
        )
