"""Overlapping windows over a token stream, and the targets that each window owns.

Window w reads the tokens [wS, wS + L) and predicts the positions wS + 1 … wS + L. Overlap gives context; so
that each position is still counted once, it belongs to the first window that predicts it: window 0 owns its L
targets, every later one the last S. The last window is right-aligned and owns only what no window before it
had. All of it is arithmetic on w, so it survives any shuffling.
"""

import numpy as np
from numpy.typing import NDArray


class Windows:
    """The windows over a stream of `tokens` tokens.

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
        if not 1 <= stride <= sequence_length:
            raise ValueError(f"the stride must lie in [1, {sequence_length}], not be {stride}")
        self.tokens = tokens
        self.sequence_length = sequence_length
        self.stride = stride
        self.targets = tokens - 1
        beyond_first = max(0, self.targets - sequence_length)
        self._count = 1 + -(-beyond_first // stride)

    def __len__(self) -> int:
        return self._count

    def starts(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Stream positions (int64) of the first token of each window.

        A stream shorter than one window has one window, which reaches beyond the end of the stream.
        """
        last_start = max(0, self.targets - self.sequence_length)
        return np.minimum(np.asarray(indices, np.int64) * self.stride, last_start)

    def owned_from(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Offset in [0, L) of each window's first owned target; those before it are only context."""
        indices = np.asarray(indices, np.int64)
        seen = np.where(indices == 0, 0, (indices - 1) * self.stride + self.sequence_length)
        return seen - self.starts(indices)

    def owned(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Number of targets that each window owns; the sum over all windows is N − 1."""
        in_window = np.minimum(self.sequence_length, self.targets)
        return in_window - self.owned_from(indices)

    def predicted(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Number of targets that each window predicts, owned or not: L, or N − 1 in a shorter stream."""
        return np.full(np.shape(indices), min(self.sequence_length, self.targets), np.int64)
