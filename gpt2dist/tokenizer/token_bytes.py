"""Convert large arrays of token ids to the bytes that they represent."""

import numpy as np
from numpy.typing import NDArray

from gpt2dist.tokenizer.tokenizer import Tokenizer


class TokenBytes:
    """Table that converts token ids to the bytes of their text.

    Args:
        tokenizer: The tokenizer of the ids.
        end_of_text: The bytes that replace end-of-text.

    Attributes:
        lengths: int64 [vocabulary], the number of bytes of each id.
    """

    def __init__(self, tokenizer: Tokenizer, end_of_text: bytes = b""):
        table = [*tokenizer.token_bytes]
        table[tokenizer.end_of_text_id] = end_of_text
        self.lengths = np.array([len(data) for data in table], np.int64)
        self._starts = np.cumsum(self.lengths) - self.lengths
        self._data = np.frombuffer(b"".join(table), np.uint8)

    def join(self, ids: NDArray[np.integer]) -> bytes:
        """Return the concatenated bytes of `ids`, which may start or end within a character."""
        lengths = self.lengths[ids]
        ends = np.cumsum(lengths)
        # Byte i of the result is byte (start of its token) + (i − first byte of the token in the result).
        shifts = np.repeat(self._starts[ids] - (ends - lengths), lengths)
        return self._data[shifts + np.arange(shifts.size)].tobytes()
