"""Perplexity of a model on held-out text, and the measures that come from the same sum."""

import math
from dataclasses import dataclass
from typing import Any

from gpt2dist.distributed.world import World
from gpt2dist.evaluation.held_out_text import HeldOut
from gpt2dist.evaluation.scoring import Forward, OnBatch, ignore, score_windows

MEASURES = (
    *("nll_sum", "targets", "loss", "perplexity", "bits_per_token", "bits_per_byte", "bytes"),
    *("word_perplexity", "words"),
)


@dataclass(frozen=True)
class Score:
    """The sum that all measures come from, and what it is divided by.

    Attributes:
        nll_sum: Σ negative log-likelihood over all targets, in nats.
        targets: Number of targets.
        bytes: UTF-8 bytes of the original text.
        words: Its whitespace-separated words.
        windows: Number of windows.
    """

    nll_sum: float
    targets: int
    bytes: int
    words: int
    windows: int

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of a target, in nats."""
        return self.nll_sum / self.targets

    @property
    def perplexity(self) -> float:
        """Exponential of the loss; infinite where that overflows."""
        return exp(self.loss)

    @property
    def bits_per_token(self) -> float:
        """The loss in bits."""
        return self.loss / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs per byte of the original text."""
        return self.nll_sum / (math.log(2) * self.bytes) if self.bytes else math.nan

    @property
    def word_perplexity(self) -> float:
        """Exponential of the negative log-likelihood per word of the original text."""
        return exp(self.nll_sum / self.words) if self.words else math.nan

    def measures(self) -> dict[str, Any]:
        """All of it by name."""
        return {name: getattr(self, name) for name in MEASURES}


def exp(value: float) -> float:
    """The exponential; infinite where that overflows."""
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
    """Scores every token of a text once. Collective.

    Args:
        forward: The model.
        text: The text.
        sequence_length: Tokens per window.
        stride: Tokens from window to window.
        batch_size: Windows per forward pass. For one batch size the result has the same bits at any number of
            ranks.
        world: This rank.
        prefix: As of `HeldOut.windows`.
        per_document: As of `HeldOut.windows`.
        on_batch: As of `score_windows`.

    Raises:
        UserError: There is nothing to predict.
    """
    stream, windows = text.windows(sequence_length, stride, prefix, per_document)
    scores = score_windows(forward, stream, windows, batch_size, world, on_batch)
    # fsum is exact, so not even the order of the addition matters.
    nll = math.fsum(scores.nll.tolist())
    return Score(nll, windows.targets, text.totals.bytes, text.totals.words, len(windows))
