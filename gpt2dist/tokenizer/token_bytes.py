"""The bytes that tokens stand for, by the million."""

import numpy as np
from numpy.typing import NDArray

from gpt2dist.tokenizer.tokenizer import Tokenizer


class TokenBytes:
    """Turns ids into the bytes of the text that they stand for.

    Args:
        tokenizer: Whose ids.
        end_of_text: What end-of-text becomes.

    Attributes:
        lengths: int64 [vocabulary], bytes of each id.
    """

    def __init__(self, tokenizer: Tokenizer, end_of_text: bytes = b""):
        table = tokenizer.token_bytes()
        table[tokenizer.end_of_text_id] = end_of_text
        self.lengths = np.array([len(data) for data in table], np.int64)
        self._starts = np.cumsum(self.lengths) - self.lengths
        self._data = np.frombuffer(b"".join(table), np.uint8)

    def join(self, ids: NDArray[np.integer]) -> bytes:
        """The bytes of tokens, one after the other; not always whole characters at both ends."""
        lengths = self.lengths[ids]
        ends = np.cumsum(lengths)
        # Byte i of the result is byte (start of its token) + (i − first byte of the token in the result).
        shifts = np.repeat(self._starts[ids] - (ends - lengths), lengths)
        return self._data[shifts + np.arange(shifts.size)].tobytes()
