"""Count the bytes and words of the text that tokens stand for, without decoding most of them."""

import numpy as np
from numpy.typing import NDArray

from gpt2dist.corpus.word_count import words_of_parts
from gpt2dist.tokenizer.token_bytes import TokenBytes
from gpt2dist.tokenizer.tokenizer import Tokenizer

_STARTS, _ENDS, _PARTIAL = np.uint8(1), np.uint8(2), np.uint8(4)
"""Flags of a token: it starts with a word, it ends with one, it is not whole characters."""
_LONGEST_RUN = 4096
"""Partial tokens at the end of a block that are kept for the next one, so that no run of them is cut."""


class TextCounter:
    """Counter of the bytes and words of a text that arrives as blocks of token ids.

    End-of-text has no bytes and separates words, so that no word spans two documents. The words of most tokens
    come from a table; a word that spans two tokens is counted in both and subtracted once. Only tokens that are
    part of a character are decoded, each run of them as one.

    Args:
        tokenizer: The tokenizer of the ids.

    Attributes:
        bytes: UTF-8 bytes so far.
        words: Whitespace-separated words so far; after `close`, all.
    """

    def __init__(self, tokenizer: Tokenizer):
        table = tokenizer.token_bytes()
        self._sizes = np.array([len(data) for data in table], np.int64)
        self._sizes[tokenizer.end_of_text_id] = 0
        table[tokenizer.end_of_text_id] = b" "
        described = [_describe(data) for data in table]
        self._words_of = np.array([words for words, _ in described], np.int64)
        self._flags = np.array([flags for _, flags in described], np.uint8)
        self._filled = np.array([bool(data) for data in table])
        self._has_empty_tokens = not self._filled.all()
        self._decoder = TokenBytes(tokenizer, end_of_text=b" ")
        self.restart()

    def restart(self) -> None:
        """Begin another text."""
        self.bytes = self.words = 0
        self._held: NDArray[np.integer] = np.zeros(0, np.int64)  # partial tokens at the end of the last block
        self._in_word = False

    def add(self, ids: NDArray[np.integer]) -> None:
        """Count the next block of ids, all of them in the vocabulary."""
        self.bytes += int(self._sizes[ids].sum())
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
        """Count what the last block left for the next one."""
        self._count(self._held, self._flags[self._held])
        self._held = self._held[:0]

    def _count(self, ids: NDArray[np.integer], flags: NDArray[np.uint8]) -> None:
        self.words += int(self._words_of[ids].sum())
        partial = flags == _PARTIAL
        if partial.any():
            # The whole tokens, and the first token of each run of partial ones.
            firsts = np.flatnonzero(~partial | np.append(True, ~partial[:-1]))
            sizes = np.add.reduceat(self._sizes[ids] * partial, firsts)
            merged = partial[firsts]
            words, starts, ends = words_of_parts(self._decoder.join(ids[partial]), sizes[merged])
            self.words += int(words.sum())
            flags = flags[firsts]
            flags[merged] = starts * _STARTS + ends * _ENDS
        if flags.size:
            self.words -= int(np.count_nonzero(flags[:-1] & (flags[1:] << np.uint8(1)) & _ENDS))
            self.words -= int(self._in_word and bool(flags[0] & _STARTS))
            self._in_word = bool(flags[-1] & _ENDS)


def _describe(data: bytes) -> tuple[int, np.uint8]:
    """Return the words of a token by itself, and its flags."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return 0, _PARTIAL
    if not text:
        return 0, np.uint8(0)
    return len(text.split()), np.uint8((not text[0].isspace()) * _STARTS + (not text[-1].isspace()) * _ENDS)
