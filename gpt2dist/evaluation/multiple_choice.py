"""Multiple choice: how often the right choice is the one that the model finds likeliest after the context.

As lm-evaluation-harness computes it (its output type `multiple_choice`). The log-likelihood of a choice is that
of all its tokens. `acc` takes the choice with the highest one, `acc_norm` the one with the highest per character.
The first of several equal ones wins.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation.continuations import encode, score_continuations
from gpt2dist.evaluation.measure import Sums
from gpt2dist.evaluation.measures import in_use, record
from gpt2dist.evaluation.model_forward import Dtype, find_together, load_model, require_dtype
from gpt2dist.evaluation.questions import Question
from gpt2dist.evaluation.scoring import OnBatch, ignore
from gpt2dist.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class QuestionScores:
    """What a model makes of questions.

    Attributes:
        log_likelihoods: Of each question, float64 [choices], in nats.
        targets: Number of scored tokens in all choices.
    """

    log_likelihoods: list[NDArray[np.float64]]
    targets: int

    def lines(self, questions: Sequence[Question]) -> Iterator[dict[str, Any]]:
        """Yield of each question its label, what acc and acc_norm choose, and the log-likelihoods."""
        for question, scores in zip(questions, self.log_likelihoods, strict=True):
            yield {
                "label": question.label,
                "chosen": int(scores.argmax()),
                "chosen_norm": _argmax_per_character(question, scores),
                "log_likelihoods": scores.tolist(),
            }

    def sums(self, questions: Sequence[Question]) -> Sums:
        """Return what the measures follow from. Σ nll is that of the right choices."""
        pairs = list(zip(questions, self.log_likelihoods, strict=True))
        return Sums(
            -math.fsum(scores[question.label] for question, scores in pairs),
            self.targets,
            examples=len(questions),
            correct=sum(int(scores.argmax() == question.label) for question, scores in pairs),
            correct_norm=sum(
                int(_argmax_per_character(question, scores) == question.label) for question, scores in pairs
            ),
        )


def _argmax_per_character(question: Question, scores: NDArray[np.float64]) -> int:
    return int((scores / np.array([len(choice) for choice in question.choices])).argmax())


def multiple_choice(
    model: str | Path,
    questions: Sequence[Question],
    world: World,
    batch_size: int = 8,
    zero_stage: Literal[0, 3] = 0,
    on_batch: OnBatch = ignore,
    measures: Sequence[str] = (),
    dtype: Dtype = "fp32",
    on_scores: Callable[[QuestionScores], None] = lambda scores: None,
) -> dict[str, Any]:
    """Answer questions. Collective.

    Args:
        model: A checkpoint, a run directory (its newest checkpoint), a model directory or a hub name.
        questions: The questions.
        world: This rank, from `gpt2dist.distributed.world.join()`.
        batch_size: Rows per forward pass; a row is a question with all its choices, or as many as fit.
        zero_stage: 3 partitions the parameters across the ranks; 0 gives each rank a replica.
        on_batch: As in `score_windows`.
        measures: Measures to compute besides ours and those of installed packages, as `package.module:attribute`.
        dtype: How the model computes: "fp32", "bf16", or "tf32" on a GPU.
        on_scores: Called on every rank with the scores of all questions.

    Returns:
        The object that `gpt2dist multiple-choice` writes; see docs/guides/evaluation.md.

    Raises:
        UserError: The model cannot be loaded, there are no questions, or a measure cannot be used.
    """
    require_dtype(dtype, world.device)
    wanted = in_use("choices", measures)
    if not questions:
        raise UserError("there are no questions")
    located = find_together(model, world)
    tokenizer = located.tokenizer
    loaded = load_model(located.directory, tokenizer, zero_stage, world, dtype)
    began = time.monotonic()
    pairs = [(question.context, f" {choice}") for question in questions for choice in question.choices]
    continuations = encode(pairs, tokenizer, loaded.context_length)
    scores = score_continuations(loaded, continuations, batch_size, world, on_batch)
    borders = np.cumsum([len(question.choices) for question in questions])[:-1]
    found = QuestionScores(np.split(-scores.nll, borders), sum(each.scored for each in continuations))
    seconds = time.monotonic() - began
    on_scores(found)
    return {
        **record(found.sums(questions), wanted),
        **conditions(questions, tokenizer, dtype),
        "batch_size": batch_size,
        "zero_stage": zero_stage,
        "world_size": world.size,
        **located.recorded(),
        **({"text_changes": tokenizer.text_changes} if tokenizer.text_changes else {}),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(found.targets / seconds, 1),
    }


def conditions(questions: Sequence[Question], tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """Return the settings that two results must share to be points of one curve."""
    return {"data": _fingerprint(questions), "tokenizer": tokenizer.fingerprint, "dtype": dtype}


def _fingerprint(questions: Sequence[Question]) -> str:
    return hashlib.sha256(json.dumps([asdict(question) for question in questions]).encode()).hexdigest()
