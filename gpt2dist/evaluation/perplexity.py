"""Perplexity of a model on held-out text: the sum and the counts from which all measures follow."""

import math

from gpt2dist.distributed.world import World
from gpt2dist.evaluation.held_out_text import HeldOut
from gpt2dist.evaluation.measure import Sums
from gpt2dist.evaluation.scoring import Forward, OnBatch, ignore, score_windows


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
) -> Sums:
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
    return Sums(nll, windows.targets, totals.bytes, totals.words, totals.lm_eval_words, len(windows))
