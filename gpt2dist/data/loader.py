"""Cursor → batches, prefetched in the background.

Sample s of a run is window P(s mod n) of epoch s div n, where P is the keyed permutation of (seed, epoch).
A global batch is the next G samples; micro-batch j of rank r takes the slots (jW + r)·m … of it. So the whole
state of the data is one integer, `consumed_samples`, and it means the same at any world size.
"""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2dist.data.shuffle import Permutation
from gpt2dist.data.stream import TokenStream
from gpt2dist.data.windows import Windows


@dataclass(frozen=True)
class MicroBatch:
    """Windows for one forward pass.

    Attributes:
        tokens: [m, L + 1] token ids in the dtype of the shards: inputs are [:, :-1], targets [:, 1:].
        counted_from: [m] int64, offset of the first target of each window that is in the loss.
        counted_to: [m] int64, offset behind the last one.
    """

    tokens: NDArray[np.integer]
    counted_from: NDArray[np.int64]
    counted_to: NDArray[np.int64]


@dataclass(frozen=True)
class StepBatch:
    """One rank's part of a global batch.

    Attributes:
        micro_batches: As many as gradients are accumulated over.
        targets: Targets in the loss of the whole global batch, over all ranks.
    """

    micro_batches: list[MicroBatch]
    targets: int


class SampleOrder:
    """Which window is the s-th sample of a run.

    Args:
        windows: Windows per epoch.
        seed: Seed of the run.
    """

    def __init__(self, windows: int, seed: int):
        self.windows = windows
        self._seed = seed

    def __call__(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Maps sample numbers (int64, any size) to window numbers."""
        epochs, places = np.divmod(samples, self.windows)
        out = np.empty_like(places)
        for epoch in np.unique(epochs):  # one, or two at the border of an epoch
            here = epochs == epoch
            out[here] = Permutation(self.windows, self._seed, int(epoch))(places[here])
        return out


class MicroBatcher:
    """Makes micro-batches of windows of a stream.

    Args:
        stream: The tokens.
        windows: The windows over them.
        loss_on: "all" counts every target of a window, "new" only those that it owns.
    """

    def __init__(self, stream: TokenStream, windows: Windows, loss_on: str):
        self.stream = stream
        self.windows = windows
        self._count = windows.predicted if loss_on == "all" else windows.owned

    def counted(self, indices: NDArray[np.int64]) -> int:
        """Number of targets in the loss of these windows together."""
        return int(self._count(indices).sum())

    def __call__(self, indices: NDArray[np.int64]) -> MicroBatch:
        """Gathers the windows with these numbers."""
        tokens = self.stream.read(self.windows.starts(indices), self.windows.sequence_length + 1)
        counted_to = self.windows.predicted(indices)
        return MicroBatch(tokens, counted_to - self._count(indices), counted_to)


class Loader:
    """An endless iterator over the steps of a run, from a cursor on.

    Args:
        batcher: Makes micro-batches of window numbers.
        order: Which window is which sample.
        global_batch_size: Windows per step, G.
        micro_batch_size: Windows per forward pass and rank, m.
        rank: This rank.
        world_size: Number of ranks W; m·W divides G.
        consumed_samples: The cursor: samples that the run has trained on.
        prefetch: Steps that are made ready ahead, in a background thread.
    """

    def __init__(
        self,
        batcher: MicroBatcher,
        order: SampleOrder,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        consumed_samples: int = 0,
        prefetch: int = 2,
    ):
        if global_batch_size % (micro_batch_size * world_size):
            raise ValueError("micro_batch_size × world_size must divide global_batch_size")
        self._batcher = batcher
        self._order = order
        self._shape = (-1, world_size, micro_batch_size)
        self._global_batch_size = global_batch_size
        self._rank = rank
        self._cursor = consumed_samples
        self._ready: queue.Queue[StepBatch | BaseException] = queue.Queue(maxsize=prefetch)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="gpt2dist-loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[StepBatch]:
        return self

    def __next__(self) -> StepBatch:
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)  # the thread has ended: asking again must not wait for ever
            raise item
        return item

    def close(self) -> None:
        """Stops the background thread."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)  # makes room for a put that waits
            except queue.Empty:
                continue

    def _fill(self) -> None:
        cursor = self._cursor
        try:
            while not self._stopped.is_set():
                self._ready.put(self._make(cursor))
                cursor += self._global_batch_size
        except BaseException as error:  # raised again where the batch is asked for
            self._ready.put(error)

    def _make(self, cursor: int) -> StepBatch:
        samples = np.arange(cursor, cursor + self._global_batch_size, dtype=np.int64)
        indices = self._order(samples)
        mine = indices.reshape(self._shape)[:, self._rank]
        return StepBatch([self._batcher(micro) for micro in mine], self._batcher.counted(indices))
