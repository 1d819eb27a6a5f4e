"""One evaluation: a model, a text, and how it is windowed → one JSON object."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation.held_out_text import HeldOut
from gpt2dist.evaluation.model_forward import load_forward, locate_together
from gpt2dist.evaluation.perplexity import score
from gpt2dist.evaluation.scoring import OnBatch, ignore
from gpt2dist.model.find_model import fingerprint
from gpt2dist.model.huggingface import Pretrained
from gpt2dist.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class EvaluationConfig:
    """How a text is scored.

    Attributes:
        sequence_length: Tokens per window; None: the context of the model.
        stride: Tokens from window to window; None: half of the sequence length.
        prefix: "end-of-text" puts one before the text, so that its first token is a target too.
        per_document: Whether each document is scored by itself, as lm-evaluation-harness does: the prefix stands
            before each, and the end-of-text behind it is no target.
        document_boundaries: "isolate" lets attention and positions begin anew at each end-of-text.
        batch_size: Windows per forward pass.
        zero_stage: 3 holds the parameters in parts on all ranks; 0 gives each rank a replica.
    """

    sequence_length: int | None = None
    stride: int | None = None
    prefix: Literal["none", "end-of-text"] = "none"
    per_document: bool = False
    document_boundaries: Literal["pack", "isolate"] = "pack"
    batch_size: int = 8
    zero_stage: Literal[0, 3] = 0

    def lengths(self, context_length: int) -> tuple[int, int]:
        """The sequence length and the stride for a model with so many positions.

        Raises:
            UserError: They do not fit the model, or each other.
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
) -> dict[str, Any]:
    """Scores every token of a text once. Collective.

    Args:
        model: A checkpoint, a run directory (its newest checkpoint), a model directory or a hub name.
        text: The text, in tokens of the model's tokenizer.
        setting: How it is scored.
        world: This rank: `gpt2dist.distributed.world.join()`.
        on_batch: As of `score_windows`.

    Returns:
        What `gpt2dist evaluate` writes: see docs/guides/evaluation.md.

    Raises:
        UserError: The model cannot be loaded, or model, text and setting do not fit together.
    """
    directory = locate_together(model, world)
    weights = world.on_main(lambda: fingerprint(directory))  # now: a run may prune what is loaded
    tokenizer = Tokenizer.load(directory)
    require_same_tokenizer(text, tokenizer, model)
    how = conditions(directory, text, setting)
    document_separator_id = tokenizer.end_of_text_id if setting.document_boundaries == "isolate" else None
    forward = load_forward(directory, tokenizer, document_separator_id, setting.zero_stage == 3, world)
    began = time.monotonic()
    result = score(
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
    seconds = time.monotonic() - began
    return {
        **result.measures(),
        **how,
        "windows": result.windows,
        "documents": text.totals.documents,
        "batch_size": setting.batch_size,
        "zero_stage": setting.zero_stage,
        "world_size": world.size,
        "model": weights,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(result.targets / seconds, 1),
    }


def conditions(directory: Path, text: HeldOut, setting: EvaluationConfig) -> dict[str, Any]:
    """What two results must share to be points of one curve.

    Args:
        directory: The model.
        text: The text.
        setting: How it is scored.

    Raises:
        UserError: Model and setting do not fit together.
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
    }


def require_same_tokenizer(text: HeldOut, tokenizer: Tokenizer, model: str | Path) -> None:
    """Refuses a text in other tokens than the model's.

    Raises:
        UserError: It is.
    """
    if text.tokenizer != tokenizer.fingerprint:
        raise UserError(
            f"{text.name} was made with another tokenizer than {model}; "
            f"preprocess the text again with --tokenizer {model}"
        )
