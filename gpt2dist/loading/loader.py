"""Load batches from a cursor, prefetched in the background.

`Mixture` computes which window is sample s of a run. A global batch is the next G samples, where G depends on the
number of samples before it (`BatchSizes`). Micro-batch j of rank r takes the m slots from (jW + r)·m. The
whole state of the data is therefore one integer, `consumed_samples`, which means the same at any world size.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpt2dist.errors import RankUserError, UserError
from gpt2dist.loading.batch_ramp import BatchSizes
from gpt2dist.loading.mixture import Mixture
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.loading.windows import WindowSet

T = TypeVar("T")
"""A micro-batch as the loader yields it."""
DRAWN_TOGETHER = 4096
"""Approximate number of samples mapped at a time: a permutation costs far less per index in large calls."""


@dataclass(frozen=True)
class MicroBatch:
    """Windows for one forward pass.

    Attributes:
        tokens: [m, L + 1] token ids in the dtype of the shards: inputs are [:, :-1], targets [:, 1:].
        counted_from: [m] int64, offset of the first target of each window that is in the loss.
        counted_to: [m] int64, offset after the last such target.
    """

    tokens: NDArray[np.integer]
    counted_from: NDArray[np.int64]
    counted_to: NDArray[np.int64]


@dataclass(frozen=True)
class StepBatch(Generic[T]):
    """One rank's part of a global batch.

    Attributes:
        micro_batches: One per gradient accumulation step.
        targets: Targets in the loss of the whole global batch, over all ranks.
        samples: Windows in the whole global batch.
    """

    micro_batches: list[T]
    targets: int
    samples: int


class MicroBatcher:
    """Builder of micro-batches from the windows of one stream.

    Args:
        stream: The tokens.
        windows: The windows over the stream.
        loss_on: "all" counts every target of a window in the loss, "new" only those that it owns.
    """

    def __init__(self, stream: TokenStream, windows: WindowSet, loss_on: str):
        self.stream = stream
        self.windows = windows
        self._count = windows.predicted if loss_on == "all" else windows.owned

    def counted(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of targets in the loss for each of these windows."""
        return self._count(indices)

    def __call__(self, indices: NDArray[np.int64]) -> MicroBatch:
        """Gather the windows with these indices."""
        tokens = self.stream.read(self.windows.starts(indices), self.windows.sequence_length + 1)
        counted_to = self.windows.predicted(indices)
        return MicroBatch(tokens, counted_to - self.counted(indices), counted_to)


class MixtureBatcher:
    """Builder of micro-batches from the windows of several streams.

    Args:
        batchers: One per dataset, in the order of the mixture.
    """

    def __init__(self, batchers: Sequence[MicroBatcher]):
        self.batchers = tuple(batchers)

    def counted(self, datasets: NDArray[np.int64], windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of targets in the loss for each of these windows."""
        out = np.empty_like(windows)
        for dataset, mine in _places(datasets):
            out[mine] = self.batchers[dataset].counted(windows[mine])
        return out

    def __call__(self, datasets: NDArray[np.int64], windows: NDArray[np.int64]) -> MicroBatch:
        """Gather window `windows[i]` of dataset `datasets[i]` for each i."""
        parts = [(mine, self.batchers[dataset](windows[mine])) for dataset, mine in _places(datasets)]
        if len(parts) == 1:
            return parts[0][1]
        return MicroBatch(*(_merge(parts, field.name) for field in fields(MicroBatch)))


def _places(datasets: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Yield each dataset that occurs, with its places in ascending order; one sort for any number of datasets."""
    order = np.argsort(datasets, kind="stable")
    sorted_ = datasets[order]
    borders = [0, *(np.flatnonzero(np.diff(sorted_)) + 1).tolist(), len(order)]
    for begin, end in pairwise(borders):
        if end > begin:
            yield int(sorted_[begin]), order[begin:end]


def _merge(parts: list[tuple[NDArray[np.intp], MicroBatch]], name: str) -> NDArray:
    """Merge one array of a micro-batch from its parts, in the widest of their dtypes."""
    arrays = [getattr(part, name) for _, part in parts]
    rows = sum(len(array) for array in arrays)
    out = np.empty((rows, *arrays[0].shape[1:]), np.result_type(*arrays))
    for (places, _), array in zip(parts, arrays, strict=True):
        out[places] = array
    return out


class Loader(Generic[T]):
    """Endless iterator over the steps of a run, starting at a cursor.

    Args:
        mixture: Maps samples to windows.
        batcher: Builds micro-batches from windows.
        stage: Converts each micro-batch to the yielded form, in the background thread.
        batch_sizes: Windows per step, G.
        micro_batch_size: Windows per forward pass and rank, m.
        rank: This rank.
        world_size: Number of ranks W; m·W must divide each G.
        consumed_samples: The cursor: samples that the run has trained on.
        prefetch: Steps to prepare ahead, in a background thread.

    Raises:
        ValueError: m·W does not divide some G.
    """

    def __init__(
        self,
        mixture: Mixture,
        batcher: MixtureBatcher,
        stage: Callable[[MicroBatch], T],
        batch_sizes: BatchSizes,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        consumed_samples: int = 0,
        prefetch: int = 2,
    ):
        if any(stage.size % (micro_batch_size * world_size) for stage in batch_sizes.stages):
            raise ValueError("micro_batch_size × world_size must divide the global batch")
        self._mixture = mixture
        self._batcher = batcher
        self._stage = stage
        self._batch_sizes = batch_sizes
        self._shape = (-1, world_size, micro_batch_size)
        self._rank = rank
        self._cursor = consumed_samples
        self._ready: queue.Queue[StepBatch[T] | BaseException] = queue.Queue(maxsize=prefetch)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="gpt2dist-loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[StepBatch[T]]:
        return self

    def __next__(self) -> StepBatch[T]:
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)  # the thread has ended: without this, another call would block forever
            raise item
        return item

    def close(self) -> None:
        """Stop the background thread."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)  # unblocks a pending put
            except queue.Empty:
                continue

    def _fill(self) -> None:
        cursor = self._cursor
        try:
            while True:
                borders = self._borders(cursor)
                for batch in self._make(borders):
                    self._ready.put(batch)
                    if self._stopped.is_set():
                        return
                cursor = borders[-1]
        except UserError as error:  # only this rank reads these windows
            self._ready.put(RankUserError(str(error)))
        except BaseException as error:  # raised again by __next__
            self._ready.put(error)

    def _borders(self, cursor: int) -> list[int]:
        """Return the boundaries, in samples, of the steps that are drawn together; `cursor` is the first."""
        borders = [cursor, cursor + self._batch_sizes.at(cursor)]
        while (following := borders[-1] + self._batch_sizes.at(borders[-1])) <= cursor + DRAWN_TOGETHER:
            borders.append(following)
        return borders

    def _make(self, borders: list[int]) -> Iterator[StepBatch[T]]:
        """Yield the steps between the borders."""
        samples = np.arange(borders[0], borders[-1], dtype=np.int64)
        datasets, windows = self._mixture(samples - self._batch_sizes.origin.data_from)
        counted = self._batcher.counted(datasets, windows)
        for begin, end in pairwise(border - borders[0] for border in borders):
            mine = [part[begin:end].reshape(self._shape)[:, self._rank] for part in (datasets, windows)]
            micro_batches = [self._stage(self._batcher(*piece)) for piece in zip(*mine, strict=True)]
            yield StepBatch(micro_batches, int(counted[begin:end].sum()), end - begin)
