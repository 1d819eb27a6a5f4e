"""Scores windows: every target once, the same bits at any number of ranks.

Windows are grouped into batches by their order, whole batches are dealt to the ranks, and what a window scores
lands in its place of one array. What the number of ranks changes is who computes a batch, never what is computed
or in which order it is added.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2dist.distributed.world import World
from gpt2dist.loading.loader import MicroBatch, MicroBatcher
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.loading.windows import WindowSet

Forward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps tokens [B, L + 1], and the bounds [B] and [B] of the targets that count, to the nll of each target, [B, L]
fp32 and 0 where it does not count, and [B, L] bool, whether it is the likeliest token: `pretrained.score`."""

OnBatch = Callable[[int, int], None]
"""Told the targets that all ranks scored since it was told before, and all that there are."""


def ignore(targets: int, of: int) -> None:
    """Does nothing with what an `OnBatch` is told."""


@dataclass(frozen=True)
class WindowScores:
    """What each window scored.

    Attributes:
        nll: float64 [windows], Σ negative log-likelihood of the targets that the window owns, in nats.
        greedy: bool [windows], whether each of these targets is the likeliest token.
    """

    nll: NDArray[np.float64]
    greedy: NDArray[np.bool_]


def score_windows(
    forward: Forward,
    stream: TokenStream,
    windows: WindowSet,
    batch_size: int,
    world: World,
    on_batch: OnBatch = ignore,
) -> WindowScores:
    """Scores every target that a set of windows owns. Collective.

    Args:
        forward: The model. Where its parameters are partitioned, all ranks call it equally often.
        stream: The tokens.
        windows: The windows over them.
        batch_size: Windows per forward pass.
        world: This rank.
        on_batch: Called after each batch; may raise.

    Raises:
        RuntimeError: A window was not scored exactly once, which would be a mistake in here.
    """
    batcher = MicroBatcher(stream, windows, "new")
    order = _longest_first(windows)
    batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    # Σ nll, whether all was greedy, and how often the window was scored.
    scores = torch.zeros(3, len(windows), dtype=torch.float64)
    for first in range(0, len(batches), world.size):
        # A rank without a batch repeats the last one and drops the result: where the parameters are
        # partitioned, the forward pass needs all ranks.
        mine = first + world.rank
        indices = batches[min(mine, len(batches) - 1)]
        nll, greedy = score_batch(forward, batcher(indices))
        if mine < len(batches):
            scores[:, indices] += torch.stack([nll, greedy.double(), torch.ones_like(nll)])
        together = np.concatenate(batches[first : first + world.size])
        on_batch(int(windows.owned(together).sum()), windows.targets)
    nll, greedy, times = world.sum(scores)
    if not (times == 1).all() or windows.owned(order).sum() != windows.targets:
        raise RuntimeError("a target was not scored exactly once; please report this")
    return WindowScores(nll.numpy(), greedy.bool().numpy())


def _longest_first(windows: WindowSet) -> NDArray[np.int64]:
    """The windows by the number of targets, so that those of a batch are about as long; equal ones by number."""
    return np.argsort(-windows.predicted(np.arange(len(windows))), kind="stable")


@torch.no_grad()
def score_batch(forward: Forward, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Scores a batch of windows.

    Returns:
        Σ nll float64 [B] in nats of the targets that each window owns, and bool [B], whether each of these is the
        likeliest token; on the CPU.
    """
    # What lies behind the longest window is not looked at by anybody: attention is causal.
    tokens = np.ascontiguousarray(batch.tokens[:, : int(batch.counted_to.max()) + 1])
    nll, greedy = forward(*map(torch.from_numpy, (tokens, batch.counted_from, batch.counted_to)))
    # On the CPU, since sums on a GPU may depend on chance.
    return nll.cpu().double().sum(dim=1), greedy.cpu().all(dim=1)
