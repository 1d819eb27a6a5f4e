"""Score windows: every target once, with bitwise identical results for any world size.

Windows are grouped into batches in a fixed order, whole batches are dealt to the ranks, and each window's score
has its own place in one array. The world size determines which rank computes a batch, but not the batches or the
order of summation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2dist.distributed.world import World
from gpt2dist.errors import RankUserError, UserError
from gpt2dist.loading.loader import MicroBatch, MicroBatcher
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.loading.windows import WindowSet

Forward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Function that maps tokens [B, L + 1] and the bounds [B] and [B] of the counted targets to two tensors [B, L]:
the nll of each target (fp32; 0 if it is not counted) and whether it is the likeliest token (bool). See
`model.pretrained.score`."""

OnBatch = Callable[[int, int], None]
"""Callback that receives the number of targets scored by all ranks since its last call, and the total number."""


def ignore(targets: int, of: int) -> None:
    """Do nothing: the default `OnBatch`."""


@dataclass(frozen=True)
class WindowScores:
    """Score of each window, or of other items.

    Attributes:
        nll: float64 [items], Σ negative log-likelihood of the targets that the window owns, in nats.
        greedy: bool [items], whether all of these targets are the likeliest tokens.
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
    """Score every target that a set of windows owns. Collective.

    Args:
        forward: The model's forward pass. All ranks call it equally often, as a partitioned model requires.
        stream: The tokens.
        windows: The windows over the stream.
        batch_size: Windows per forward pass.
        world: This rank.
        on_batch: Called each time every rank has scored a batch; may raise.

    Raises:
        RankUserError: A shard is missing or damaged, which only the rank that reads it can see.
        RuntimeError: A target was not scored exactly once, which would be a bug in this function.
    """
    batcher = MicroBatcher(stream, windows, "new")
    order = _longest_first(windows)
    batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    targets = windows.owned(np.arange(len(windows)))
    if targets.sum() != windows.targets:
        raise RuntimeError("a target was not scored exactly once; please report this")
    return score_batches(
        lambda number: score_batch(forward, _read(batcher, batches[number])), batches, targets, world, on_batch
    )


def score_batches(
    score: Callable[[int], tuple[Tensor, Tensor]],
    batches: Sequence[NDArray[np.int64]],
    targets: NDArray[np.int64],
    world: World,
    on_batch: OnBatch,
) -> WindowScores:
    """Score items, such as windows, in batches that are dealt to the ranks. Collective.

    Args:
        score: Scores a batch, given its number, as `score_batch` does. All ranks call it equally often, as a
            partitioned model requires.
        batches: The items of each batch; together they are the numbers from 0 on, each once.
        targets: Number of targets of each item.
        world: This rank.
        on_batch: As in `score_windows`.

    Returns:
        The score of each item.

    Raises:
        RuntimeError: An item was not scored exactly once, which would be a bug in this function.
    """
    # Of the first batches, once, since each rank reports the progress of all ranks.
    targets_before = np.append(0, np.cumsum([targets[batch].sum() for batch in batches]))
    # Rows: Σ nll, whether all targets were the likeliest tokens, and how often the item was scored.
    scores = torch.zeros(3, len(targets), dtype=torch.float64)
    for first in range(0, len(batches), world.size):
        # A rank without a batch repeats the last one and discards the result, because the forward pass of a
        # partitioned model needs all ranks.
        mine = first + world.rank
        number = min(mine, len(batches) - 1)
        nll, greedy = score(number)
        if mine < len(batches):
            scores[:, batches[number]] += torch.stack([nll, greedy.double(), torch.ones_like(nll)])
        end = min(len(batches), first + world.size)
        on_batch(int(targets_before[end] - targets_before[first]), int(targets_before[-1]))
    nll, greedy, times = world.sum(scores)
    if not (times == 1).all():
        raise RuntimeError("a target was not scored exactly once; please report this")
    return WindowScores(nll.numpy(), greedy.bool().numpy())


def first_batch_loss(
    forward: Forward, stream: TokenStream, windows: WindowSet, batch_size: int
) -> tuple[float, int]:
    """Score only the first batch of `score_windows`, on every rank; the arguments are the same. Collective.

    Returns:
        The mean nll of its targets in nats, and its number of windows.
    """
    indices = _longest_first(windows)[:batch_size]
    nll, _ = score_batch(forward, _read(MicroBatcher(stream, windows, "new"), indices))
    return nll.sum().item() / int(windows.owned(indices).sum()), len(indices)


def _read(batcher: MicroBatcher, indices: NDArray[np.int64]) -> MicroBatch:
    try:
        return batcher(indices)
    except UserError as error:
        raise RankUserError(str(error)) from error


def _longest_first(windows: WindowSet) -> NDArray[np.int64]:
    """Return the windows by descending length, ties by index, so that those in a batch have similar lengths."""
    return np.argsort(-windows.predicted(np.arange(len(windows))), kind="stable")


@torch.no_grad()
def score_batch(forward: Forward, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Score a batch of windows.

    Returns:
        Two tensors [B] on the CPU: Σ nll (float64, in nats) of the targets that each window owns, and whether all
        of them are the likeliest tokens (bool).
    """
    # Attention is causal, so tokens after the end of the longest window have no effect.
    tokens = np.ascontiguousarray(batch.tokens[:, : int(batch.counted_to.max()) + 1])
    nll, greedy = forward(*map(torch.from_numpy, (tokens, batch.counted_from, batch.counted_to)))
    # Sum on the CPU, since sums on a GPU may be nondeterministic.
    return nll.cpu().double().sum(dim=1), greedy.cpu().all(dim=1)
