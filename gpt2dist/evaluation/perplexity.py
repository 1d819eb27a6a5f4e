"""Perplexity of a model on held-out text, and other measures from the same sum."""

import math
from dataclasses import dataclass
from typing import Any

from gpt2dist.distributed.world import World
from gpt2dist.evaluation.held_out_text import HeldOut
from gpt2dist.evaluation.scoring import Forward, OnBatch, ignore, score_windows

MEASURES = (
    *("nll_sum", "targets", "loss", "perplexity", "bits_per_token", "bits_per_byte", "bytes"),
    *("word_perplexity", "words", "lm_eval_word_perplexity", "lm_eval_words"),
)


@dataclass(frozen=True)
class Score:
    """Total negative log-likelihood of a text, and the counts that normalise it.

    Attributes:
        nll_sum: Σ negative log-likelihood over all targets, in nats.
        targets: Number of targets.
        bytes: UTF-8 bytes of the original text.
        words: Whitespace-separated words of the original text.
        windows: Number of windows.
        lm_eval_words: Words as lm-evaluation-harness counts them; None if they were not counted.
    """

    nll_sum: float
    targets: int
    bytes: int
    words: int
    windows: int
    lm_eval_words: int | None = None

    @property
    def loss(self) -> float:
        """The mean negative log-likelihood of a target, in nats."""
        return self.nll_sum / self.targets

    @property
    def perplexity(self) -> float:
        """The exponential of the loss; infinite if it overflows."""
        return exp(self.loss)

    @property
    def bits_per_token(self) -> float:
        """The loss in bits."""
        return self.loss / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """The negative log-likelihood in bits per byte of the original text; NaN if that is empty."""
        return self.nll_sum / (math.log(2) * self.bytes) if self.bytes else math.nan

    @property
    def word_perplexity(self) -> float:
        """The exponential of the negative log-likelihood per word of the original text; NaN if it has none."""
        return exp(self.nll_sum / self.words) if self.words else math.nan

    @property
    def lm_eval_word_perplexity(self) -> float | None:
        """The word perplexity of lm-evaluation-harness; None if its words were not counted."""
        return exp(self.nll_sum / self.lm_eval_words) if self.lm_eval_words else None

    def measures(self) -> dict[str, Any]:
        """Return all known measures by name."""
        values = {name: getattr(self, name) for name in MEASURES}
        return {name: value for name, value in values.items() if value is not None}


def exp(value: float) -> float:
    """Return the exponential; infinity if it overflows."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def score(
    forward: Forward,
    text: HeldOut,
    sequence_length: int,
    stride: int,
    batch_size: int,
    world: World,
    prefix: bool = False,
    per_document: bool = False,
    on_batch: OnBatch = ignore,
) -> Score:
    """Score every token of a text once. Collective.

    Args:
        forward: The model.
        text: The text.
        sequence_length: Tokens per window.
        stride: Tokens between the starts of windows.
        batch_size: Windows per forward pass. At a given batch size, the result is bitwise identical for any
            world size.
        world: This rank.
        prefix: As in `HeldOut.windows`.
        per_document: As in `HeldOut.windows`.
        on_batch: As in `score_windows`.

    Raises:
        UserError: The text has no target, or its documents cannot be separated for `per_document`.
    """
    stream, windows = text.windows(sequence_length, stride, prefix, per_document)
    scores = score_windows(forward, stream, windows, batch_size, world, on_batch)
    # fsum is exact, so the result does not depend on the order of the windows.
    nll = math.fsum(scores.nll.tolist())
    totals = text.totals
    return Score(nll, windows.targets, totals.bytes, totals.words, len(windows), totals.lm_eval_words)
