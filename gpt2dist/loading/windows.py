"""Overlapping windows over a token stream, and the targets that each window owns.

Window w reads the tokens [wS, wS + L) and predicts the positions wS + 1 … wS + L. The overlap provides context.
Each position is still counted only once, because it belongs to the first window that predicts it: window 0 owns
its L targets, every later window its last S. The last window is right-aligned and owns only the remaining
targets. All of this is arithmetic on w, so shuffling does not affect it.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Numbers = int | NDArray[np.int64]


class WindowSet(Protocol):
    """Interface of numbered windows over a stream, with or without document boundaries."""

    @property
    def sequence_length(self) -> int:
        """Maximum number L of tokens that a window reads, and of targets that it predicts."""

    @property
    def targets(self) -> int:
        """Total number of targets that the windows own."""

    def __len__(self) -> int: ...
    def starts(self, indices: NDArray[np.integer]) -> NDArray[np.int64]: ...  # noqa: D102
    def owned(self, indices: NDArray[np.integer]) -> NDArray[np.int64]: ...  # noqa: D102
    def predicted(self, indices: NDArray[np.integer]) -> NDArray[np.int64]: ...  # noqa: D102


class Windows:
    """Windows over a stream of `tokens` tokens.

    Args:
        tokens: Length N of the stream, at least 2: it holds N − 1 targets.
        sequence_length: Tokens L that a window reads, and targets that it predicts.
        stride: Tokens S from the start of a window to the start of the next, 1 ≤ S ≤ L.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(self, tokens: int, sequence_length: int, stride: int):
        if tokens < 2:
            raise ValueError(f"a stream of {tokens} tokens has no target")
        _check_stride(stride, sequence_length)
        self.tokens = tokens
        self.sequence_length = sequence_length
        self.stride = stride
        self.targets = tokens - 1
        self._count = int(_count(self.targets, sequence_length, stride))

    def __len__(self) -> int:
        return self._count

    def starts(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the stream positions (int64) of the first token of each window.

        A stream shorter than one window has one window, which reaches beyond the end of the stream.
        """
        return _starts(np.asarray(indices, np.int64), self.targets, self.sequence_length, self.stride)

    def owned_from(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the offset in [0, L) of each window's first owned target; those before it are only context."""
        return self.predicted(indices) - self.owned(indices)

    def owned(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the number of targets that each window owns; the sum over all windows is N − 1."""
        return _owned(np.asarray(indices, np.int64), self.targets, self.sequence_length, self.stride)

    def predicted(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the number of targets that each window predicts, owned or not: L, or N − 1 if that is less."""
        return np.full(np.shape(indices), min(self.sequence_length, self.targets), np.int64)


class DocumentWindows:
    """Windows over spans of a stream, where each span is windowed independently.

    A window is found in O(log D).

    Args:
        begins: int64 [D], stream position of the first token of each span.
        tokens: int64 [D], tokens in each span; a span of fewer than 2 tokens has no target and no window.
        sequence_length: As in `Windows`.
        stride: As in `Windows`.

    Raises:
        ValueError: The stride is out of range.
    """

    def __init__(self, begins: NDArray[np.int64], tokens: NDArray[np.int64], sequence_length: int, stride: int):
        _check_stride(stride, sequence_length)
        has_target = tokens >= 2
        self.sequence_length = sequence_length
        self.stride = stride
        self._begins = begins[has_target]
        self._targets = tokens[has_target] - 1
        self.targets = int(self._targets.sum())
        counts = _count(self._targets, sequence_length, stride)
        # Numbers of each span's first window, and of the first one after it.
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._firsts = self._ends - counts

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def starts(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the stream positions (int64) of the first token of each window. It may reach beyond its span."""
        span, inner = self._find(indices)
        offsets = _starts(inner, self._targets[span], self.sequence_length, self.stride)
        return self._begins[span] + offsets

    def owned(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the number of targets that each window owns; the sum over all windows is `targets`."""
        span, inner = self._find(indices)
        return _owned(inner, self._targets[span], self.sequence_length, self.stride)

    def predicted(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the number of targets that each window predicts; tokens after them belong to another span."""
        span, _ = self._find(indices)
        return np.minimum(self.sequence_length, self._targets[span])

    def _find(self, indices: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Return the span of each window, and the window's number in its span."""
        indices = np.asarray(indices, np.int64)
        span = np.searchsorted(self._ends, indices, side="right")
        return span, indices - self._firsts[span]


def _check_stride(stride: int, sequence_length: int) -> None:
    if not 1 <= stride <= sequence_length:
        raise ValueError(f"the stride must lie in [1, {sequence_length}], not be {stride}")


def _count(targets: Numbers, length: int, stride: int) -> NDArray[np.int64]:
    """Return the number of windows over a stream of `targets` targets."""
    beyond_first = np.maximum(0, targets - length)
    return 1 + -(-beyond_first // stride)


def _starts(indices: NDArray[np.int64], targets: Numbers, length: int, stride: int) -> NDArray[np.int64]:
    return np.minimum(indices * stride, np.maximum(0, targets - length))


def _owned(indices: NDArray[np.int64], targets: Numbers, length: int, stride: int) -> NDArray[np.int64]:
    seen = np.where(indices == 0, 0, (indices - 1) * stride + length)  # targets of earlier windows
    return _starts(indices, targets, length, stride) + np.minimum(length, targets) - seen
