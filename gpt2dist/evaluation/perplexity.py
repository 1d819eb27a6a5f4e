"""Perplexity of a model on a token stream: every target once, the same bits at any number of ranks.

Windows are grouped into batches by their index, whole batches are dealt to the ranks, each window's sum lands in
its place of one array, and the array is added exactly. What the number of ranks changes is who computes a batch,
never what is computed or in which order it is added.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpt2dist.data.loader import MicroBatcher
from gpt2dist.data.stream import TokenStream
from gpt2dist.data.windows import Windows
from gpt2dist.model.loss import counted_mask, token_nll


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
        return _exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs per byte of the original text."""
        return self.nll_sum / (math.log(2) * self.bytes) if self.bytes else math.nan

    @property
    def word_perplexity(self) -> float:
        """Exponential of the negative log-likelihood per word of the original text."""
        return _exp(self.nll_sum / self.words) if self.words else math.nan


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def score(
    logits: Callable[[Tensor], Tensor],
    stream: TokenStream,
    windows: Windows,
    batch_size: int,
    rank: int,
    world_size: int,
    add: Callable[[Tensor], Tensor],
    on_batch: Callable[[int], None] = lambda targets: None,
) -> tuple[float, int]:
    """Scores every target of a stream once.

    Args:
        logits: Maps tokens [B, L] to logits [B, L, V] on the device where they are computed.
        stream: The tokens.
        windows: The windows over them.
        batch_size: Windows per batch.
        rank: This rank.
        world_size: Number of ranks.
        add: Adds a float64 CPU tensor over all ranks.
        on_batch: Called after each batch with the number of targets that all ranks scored meanwhile.

    Returns:
        Σ nll in nats and the number of targets.
    """
    batcher = MicroBatcher(stream, windows, "new")
    sums = torch.zeros(len(windows), dtype=torch.float64)
    batches = -(-len(windows) // batch_size)
    for first in range(0, batches, world_size):
        # A rank without a batch repeats the last one and drops the result: where the parameters are
        # partitioned, the forward pass needs all ranks.
        batch = min(first + rank, batches - 1)
        indices = np.arange(batch * batch_size, min((batch + 1) * batch_size, len(windows)))
        nll = window_nll(logits, batcher, indices)
        if first + rank < batches:
            sums[torch.from_numpy(indices)] = nll
        together = np.arange(first * batch_size, min((first + world_size) * batch_size, len(windows)))
        on_batch(int(windows.owned(together).sum()))
    # fsum is exact, so not even the order of the addition matters.
    return math.fsum(add(sums).tolist()), windows.targets


@torch.no_grad()
def window_nll(logits: Callable[[Tensor], Tensor], batcher: MicroBatcher, indices: np.ndarray) -> Tensor:
    """Σ nll of the targets that each window owns: float64 [B], on the CPU."""
    micro_batch = batcher(indices)
    inputs = torch.from_numpy(np.ascontiguousarray(micro_batch.tokens[:, :-1]))
    out = logits(inputs)
    targets = torch.from_numpy(micro_batch.tokens[:, 1:].astype(np.int64)).to(out.device)
    mask = counted_mask(
        targets,
        torch.from_numpy(micro_batch.counted_from).to(out.device),
        torch.from_numpy(micro_batch.counted_to).to(out.device),
    )
    return token_nll(out, targets).double().masked_fill(~mask, 0.0).sum(dim=1).cpu()
