"""Count the bytes and words of the text that tokens encode, without decoding most of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2dist.corpus.word_count import words_of_parts
from gpt2dist.tokenizer.token_bytes import TokenBytes
from gpt2dist.tokenizer.tokenizer import Tokenizer

_STARTS, _ENDS, _PARTIAL = np.uint8(1), np.uint8(2), np.uint8(4)
"""Flags of a token: it starts with a word, it ends with one, it has incomplete characters."""
_STARTS_WITH_SPACE, _ENDS_WITH_SPACE = np.uint8(8), np.uint8(16)
"""Flags of a token: it starts or ends with white space. End-of-text has neither these nor the others."""
_LONGEST_RUN = 4096
"""Maximum partial tokens at the end of a block to hold back for the next one, so that no run of them is cut."""


class TextCounter:
    """Counter of the bytes and words of a text that arrives as blocks of token ids.

    End-of-text has no bytes. It separates words and stretches of white space, so that none spans two documents.
    The words and stretches in most tokens come from a table; one that spans two tokens is counted in both and
    subtracted once. Only tokens with incomplete characters are decoded, each run of them together.

    Args:
        tokenizer: The tokenizer of the ids.

    Attributes:
        bytes: UTF-8 bytes so far.
        words: Whitespace-separated words so far; after `close`, all.
    """

    def __init__(self, tokenizer: Tokenizer):
        table = [*tokenizer.token_bytes]
        self._sizes = np.array([len(data) for data in table], np.int64)
        self._sizes[tokenizer.end_of_text_id] = 0
        table[tokenizer.end_of_text_id] = b" "
        described = [_describe(data) for data in table]
        described[tokenizer.end_of_text_id] = 0, 0, np.uint8(0)
        self._words_of, self._spaces_of = np.array([counts for *counts, _ in described], np.int64).T.copy()
        self._flags = np.array([flags for *_, flags in described], np.uint8)
        self._end_of_text_id = tokenizer.end_of_text_id
        self._filled = np.array([bool(data) for data in table])
        self._has_empty_tokens = not self._filled.all()
        self._decoder = TokenBytes(tokenizer, end_of_text=b" ")
        self.restart()

    def restart(self) -> None:
        """Start a new text."""
        self.bytes = self.words = self._spaces = self._ends = 0
        self._held: NDArray[np.integer] = np.zeros(0, np.int64)  # partial tokens at the end of the last block
        self._last = np.uint8(0)  # the flags of the last token

    def lm_eval_words(self, documents: int) -> int | None:
        """Return the words as lm-evaluation-harness counts them: stretches of white space, plus 1 a document.

        Return None if end-of-text does not separate this number of documents.
        """
        return self._spaces + documents if documents - self._ends in (0, 1) else None

    def add(self, ids: NDArray[np.integer]) -> None:
        """Count the next block of ids, all of them in the vocabulary."""
        self.bytes += int(self._sizes[ids].sum())
        self._ends += int(np.count_nonzero(ids == self._end_of_text_id))
        if self._has_empty_tokens:
            ids = ids[self._filled[ids]]
        if self._held.size:
            ids = np.concatenate([self._held, ids])
        flags = self._flags[ids]
        whole = np.flatnonzero(flags[-_LONGEST_RUN:] != _PARTIAL)
        end = max(len(ids) - _LONGEST_RUN, 0) + int(whole[-1]) + 1 if whole.size else 0
        if len(ids) - end > _LONGEST_RUN:
            end = len(ids)
        self._held = ids[end:]
        self._count(ids[:end], flags[:end])

    def close(self) -> None:
        """Count the tokens held back from the last block."""
        self._count(self._held, self._flags[self._held])
        self._held = self._held[:0]

    def _count(self, ids: NDArray[np.integer], flags: NDArray[np.uint8]) -> None:
        self.words += int(self._words_of[ids].sum())
        self._spaces += int(self._spaces_of[ids].sum())
        partial = flags == _PARTIAL
        if partial.any():
            # The whole tokens, and the first token of each run of partial ones.
            firsts = np.flatnonzero(~partial | np.append(True, ~partial[:-1]))
            sizes = np.add.reduceat(self._sizes[ids] * partial, firsts)
            merged = partial[firsts]
            words, starts, ends = words_of_parts(self._decoder.join(ids[partial]), sizes[merged])
            self.words += int(words.sum())
            self._spaces += int(_spaces(words, starts, ends).sum())
            flags = flags[firsts]
            flags[merged] = _flags(starts, ends)
        if flags.size:
            before = np.append(self._last, flags[:-1]) >> np.uint8(1)
            self.words -= int(np.count_nonzero(before & flags & _STARTS))
            self._spaces -= int(np.count_nonzero(before & flags & _STARTS_WITH_SPACE))
            self._last = flags[-1]


def _describe(data: bytes) -> tuple[int, int, np.uint8]:
    """Return the words and the stretches of white space of a token by itself, and its flags."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return 0, 0, _PARTIAL
    if not text:
        return 0, 0, np.uint8(0)
    words, starts, ends = len(text.split()), not text[0].isspace(), not text[-1].isspace()
    return words, _spaces(words, starts, ends), _flags(starts, ends)


def _spaces(words: Any, starts: Any, ends: Any) -> Any:
    """Return the stretches of white space in texts of at least one character."""
    return words + 1 - starts - ends


def _flags(starts: Any, ends: Any) -> Any:
    """Return the flags of texts that start and end with a word, or with white space."""
    at_start = starts * _STARTS + (1 - starts) * _STARTS_WITH_SPACE
    at_end = ends * _ENDS + (1 - ends) * _ENDS_WITH_SPACE
    return np.uint8(at_start + at_end)
