r"""Vectorized count of whitespace-separated words, with the same result as `str.split`.

lm-evaluation-harness counts `re.split(r"\s+", text)`, which has an empty string for white space at either end.
Its count is computed too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

REDUCEAT_LENGTH = 1 << 10
"""Mean length of a text, in bytes, from which one call per text is faster than one reduceat for all."""
_WIDE_SPACES = {
    0xC2: (b"\x85\x85", b"\xa0\xa0"),  # U+0085; U+00A0
    0xE1: (b"\x9a\x80\x9a\x80",),  # U+1680
    0xE2: (
        b"\x80\x80\x80\x8a",  # U+2000 … U+200A
        b"\x80\xa8\x80\xa9",  # U+2028, U+2029
        b"\x80\xaf\x80\xaf",  # U+202F
        b"\x81\x9f\x81\x9f",  # U+205F
    ),
    0xE3: (b"\x80\x80\x80\x80",),  # U+3000
}
"""Wide whitespace: lead byte → (lowest, then highest values of the bytes after it), one entry per range."""


class WordCounts(NamedTuple):
    """Number of words in each of several texts."""

    words: NDArray[np.int64]
    """int64 [texts], `len(text.split())`."""
    lm_eval_words: NDArray[np.int64]
    r"""int64 [texts], `len(re.split(r"\s+", text))`, as lm-evaluation-harness counts words."""


def count_words(texts: Sequence[bytes]) -> WordCounts:
    """Count the words of each text, which must be valid UTF-8."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    # The spaces keep the words of adjacent texts apart, and give each text at least one byte for reduceat.
    space = _is_space(b" %b " % b" ".join(texts))
    begins = (space[:-1] & ~space[1:]).view(np.uint8)
    ends = np.cumsum(lengths + 1)
    starts = ends - (lengths + 1)
    if begins.size < REDUCEAT_LENGTH * len(texts):
        words = np.add.reduceat(begins, starts, dtype=np.int64)
    else:
        counts = [np.count_nonzero(begins[start:end]) for start, end in zip(starts, ends, strict=True)]
        words = np.array(counts, np.int64)
    outer_spaces = space[starts + 1].astype(np.int64) + space[starts + lengths]
    return WordCounts(words, np.where(lengths > 0, words + outer_spaces, 1))


def words_of_parts(
    text: bytes, sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Count the words of each part of a text.

    Args:
        text: The concatenated parts, each valid UTF-8 apart from incomplete characters.
        sizes: int64 [parts], bytes of each part, at least 1.

    Returns:
        [parts] each: the number of words, whether the part starts with a word, and whether it ends with one.
    """
    word = ~_is_space(text + bytes(3))[: len(text)]  # the last character may lack up to three bytes
    ends = np.cumsum(sizes)
    starts = ends - sizes
    begins = word & ~np.append(False, word[:-1])
    begins[starts] = word[starts]
    return np.add.reduceat(begins, starts, dtype=np.int64), word[starts], word[ends - 1]


class WordCounter:
    """Word counter for a text that arrives in parts.

    Attributes:
        total: Number of words so far.
    """

    def __init__(self) -> None:
        self.total = 0
        self._empty, self._starts_with_space, self._within_word = True, False, False

    @property
    def lm_eval_total(self) -> int:
        """The number of words so far as lm-evaluation-harness counts them."""
        return 1 if self._empty else self.total + self._starts_with_space + (not self._within_word)

    def add(self, part: bytes) -> None:
        """Count the next part, which must be valid UTF-8 and not empty."""
        (words,) = count_words([part]).words
        self.total += int(words)
        begins_with_space = part[:4].decode(errors="ignore")[:1].isspace()
        if self._empty:
            self._empty, self._starts_with_space = False, begins_with_space
        # A word that spans two parts was counted in both of them.
        self.total -= self._within_word and not begins_with_space
        self._within_word = not part[-4:].decode(errors="ignore")[-1:].isspace()


def _is_space(text: bytes) -> NDArray[np.bool_]:
    """Return bool [len(text)]: whether each byte belongs to a character for which `str.isspace` holds."""
    data = np.frombuffer(text, np.uint8)
    # Unsigned arithmetic wraps around, so one comparison tests a range: 9–13, 28–31 and 32.
    space = (data == 32) | (data - np.uint8(9) <= 4) | (data - np.uint8(28) <= 3)
    for lead, tails in _WIDE_SPACES.items():
        if lead in text:
            places = np.flatnonzero(data == lead)
            width = len(tails[0]) // 2
            following = [data[places + step] for step in range(1, width + 1)]
            for tail in tails:
                limits = zip(following, tail[:width], tail[width:], strict=True)
                wide = np.logical_and.reduce([(low <= byte) & (byte <= high) for byte, low, high in limits])
                found = places[wide]
                for step in range(width + 1):
                    space[found + step] = True
    return space
