"""Encode text fast: the encoders, the check of the fast one against the reference, and the cutting of long texts.

The reference is `tokenizers`, which defines the meaning of a tokenizer.json. gigatoken is about a hundred times
faster. Because it is young, it is compared with the reference on samples of each corpus before use.
"""

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from gpt2dist.errors import Gpt2distError
from gpt2dist.tokenizer.tokenizer import Tokenizer

FAST, REFERENCE = "gigatoken", "tokenizers"

CACHE_SHARE = 1 / 4
"""Share of a process's free memory that the fast encoder's cache may take. When the cache is full, it is copied
to one of twice the size, and both are in memory during the copy."""
MIN_CACHE = 32 << 20
"""Bytes that the cache may always take, so that it is not emptied at every batch."""

MAX_STRETCH = 8 << 20
"""Maximum bytes of a long text that are held in memory while searching for a place to cut."""


class Encoder(Protocol):
    """Encoder of batches of texts, which does not add end-of-text."""

    def encode_batch(self, texts: Sequence[bytes]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Encode texts.

        Args:
            texts: Texts as valid UTF-8.

        Returns:
            The concatenated ids of all texts, uint32 [tokens], and the number of tokens in each, int64 [texts].
        """


class ReferenceEncoder:
    """Encoder based on `tokenizers`.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def encode_batch(self, texts: Sequence[bytes]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """See `Encoder`."""
        return self._tokenizer.encode_batch([text.decode() for text in texts])


class FastEncoder:
    """Encoder based on gigatoken, running on the calling thread.

    gigatoken normalizes by a newer version of Unicode than `tokenizers`. So it encodes only texts that the
    normalizer does not change; the reference encodes the others.

    gigatoken caches every word without limit: a gigabyte after a hundred megabytes of random words. So it is
    recreated, in a tenth of a second, when the process has grown too much since the last time. How much that is
    depends on the memory that the process has left then.

    Args:
        tokenizer: A byte-level BPE tokenizer.
        memory: Bytes of memory that the process may use.
    """

    def __init__(self, tokenizer: Tokenizer, memory: int = 1 << 30):
        self._tokenizer = tokenizer
        content = orjson.loads(tokenizer.encoding_json())
        # gigatoken would encode "<|endoftext|>" in a text as the special token.
        ordinary = [token for token in content["added_tokens"] if not token["special"]]
        self._content = orjson.dumps(content | {"added_tokens": ordinary, "normalizer": None})
        self._memory = memory
        self._backend = self._load_backend()

    def encode_batch(self, texts: Sequence[bytes]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """See `Encoder`."""
        if not self._tokenizer.normalizer:
            return self._encode(texts)
        kept = np.fromiter(map(self._tokenizer.keeps, texts), np.bool_, len(texts))
        if kept.all():
            return self._encode(texts)
        fast = self._encode([*compress(texts, kept)])
        slow = ReferenceEncoder(self._tokenizer).encode_batch([*compress(texts, ~kept)])
        lengths = np.empty(len(texts), np.int64)
        lengths[kept], lengths[~kept] = fast[1], slow[1]
        is_fast = np.repeat(kept, lengths)
        ids = np.empty(is_fast.size, np.uint32)
        ids[is_fast], ids[~is_fast] = fast[0], slow[0]
        return ids, lengths

    def _encode(self, texts: Sequence[bytes]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        import awkward

        if not texts:
            return np.zeros(0, np.uint32), np.zeros(0, np.int64)
        encoded = self._backend.encode_batch(list(texts), parallel=False)
        ids, lengths = np.asarray(awkward.flatten(encoded)), np.asarray(awkward.num(encoded))
        self._tokenizer.require_no_end_of_text(ids, lengths, texts)
        if resident_bytes() > self._limit:
            self._backend = None  # Free the memory before loading the next one.
            self._backend = self._load_backend()
        return ids.astype(np.uint32, copy=False), lengths.astype(np.int64, copy=False)

    def _load_backend(self) -> Any:
        from gigatoken.gigatoken_rs import load_hf_json

        backend = load_hf_json(self._content)
        resident = resident_bytes()
        self._limit = resident + max(int((self._memory - resident) * CACHE_SHARE), MIN_CACHE)
        return backend


def make_encoder(name: str, tokenizer: Tokenizer, memory: int = 1 << 30) -> Encoder:
    """Return the encoder with a name that `choose_encoder` returned."""
    return FastEncoder(tokenizer, memory) if name == FAST else ReferenceEncoder(tokenizer)


def choose_encoder(tokenizer: Tokenizer, samples: Iterable[bytes]) -> tuple[str, str]:
    """Choose the fastest encoder that agrees with the reference on `HARD_TEXTS` and samples of a corpus.

    Args:
        tokenizer: The tokenizer.
        samples: Texts of the corpus.

    Returns:
        The name of the encoder, and why the fast one was rejected. The reason is empty if the fast one was chosen
        or the tokenizer is not byte-level or lossy.
    """
    if not tokenizer.is_byte_level or tokenizer.losses:
        return REFERENCE, ""
    if tokenizer.normalizer not in ("", "NFC"):
        return REFERENCE, f"the fast encoder does not support the tokenizer's normalizer {tokenizer.normalizer}"
    if not all(tokenizer.keeps(token.encode()) for token in tokenizer.matched_tokens):
        return REFERENCE, f"the tokenizer's normalizer {tokenizer.normalizer} changes its own added tokens"
    texts = [*HARD_TEXTS, *_around(tokenizer.matched_tokens), *samples]
    try:
        ids, lengths = FastEncoder(tokenizer).encode_batch(texts)
    except Exception as error:  # The reference encoder works in any case.
        return REFERENCE, f"the fast encoder cannot load this tokenizer ({type(error).__name__}: {error})"
    expected, expected_lengths = ReferenceEncoder(tokenizer).encode_batch(texts)
    if np.array_equal(ids, expected) and np.array_equal(lengths, expected_lengths):
        return FAST, ""
    ends, expected_ends = np.cumsum(lengths), np.cumsum(expected_lengths)
    for text, end, length, expected_end, expected_length in zip(
        texts, ends, lengths, expected_ends, expected_lengths, strict=True
    ):
        there = expected[expected_end - expected_length : expected_end]
        if not np.array_equal(ids[end - length : end], there):
            shown = text.decode()[:60]
            return REFERENCE, f"the fast encoder does not agree with the reference on the text {shown!r}"
    raise AssertionError("the concatenated ids differ, but those of no text do")


def cut_long_text(parts: Iterable[bytes], tokenizer: Tokenizer) -> Iterator[bytes]:
    """Cut a long text so that encoding the parts separately gives the tokens of the whole text.

    With GPT-2's pre-tokenizer, no token spans the border between a letter and a following non-letter, or between
    a non-space and a following space. It looks ahead only after spaces and never looks behind. So both sides of
    such a border are encoded independently, and the normalizer NFC joins nothing across one. A character-level
    tokenizer allows cuts anywhere.

    Args:
        parts: The text in parts, each valid UTF-8.
        tokenizer: The tokenizer.

    Yields:
        The same text in different parts, each valid UTF-8.

    Raises:
        UncuttableError: More than `MAX_STRETCH` bytes have no safe border. No border is known to be safe for
            other tokenizers.
    """
    held: list[bytes] = []  # parts without a safe border inside
    size = 0
    find_border = _border_finder(tokenizer)
    for part in parts:
        place = find_border(held[-1][-_CHARACTER_BYTES:] if held else b"", part)
        held.append(part)
        size += len(part)
        if place >= 0:
            held[-1] = part[:place]
            yield b"".join(held)
            held, size = [part[place:]], len(part) - place
        elif size > MAX_STRETCH:
            why = (
                ""
                if find_border is _border_in
                else " for this tokenizer, which does not cut words as GPT-2's does"
            )
            raise UncuttableError(f"a stretch of {MAX_STRETCH:,} bytes has no place to cut it at{why}")
    if size:
        yield b"".join(held)


class UncuttableError(Gpt2distError):
    """A text that is too long to be encoded as a whole cannot be cut."""


def _border_finder(tokenizer: Tokenizer) -> Callable[[bytes, bytes], int]:
    """Return the function that finds the last safe border in a part, given the bytes before the part.

    It returns a byte offset in the part, or a negative number if the part has no safe border.
    """
    matched = tokenizer.matched_tokens
    if tokenizer.is_character_level and not (tokenizer.text_changes or matched):
        return lambda before, part: len(part)
    if tokenizer.cuts_as_gpt2 and not any(_last_border(token.encode()) >= 0 for token in matched):
        return _border_in
    return lambda before, part: -1


def _around(tokens: Sequence[str]) -> list[bytes]:
    """Return texts that contain these added tokens next to letters, spaces and each other."""
    joined = "".join(tokens)
    texts = [joined, " ".join(tokens), joined[::-1]]
    for token in tokens:
        texts += [
            token,
            f"a{token}b",
            f"1 {token} 2",
            f"{token}{token} {token}\n{token}",
            token.upper(),
            token[:-1],
        ]
    return [text.encode() for text in texts]


def _border_in(before: bytes, part: bytes) -> int:
    return _last_border(before + part) - len(before)


def _last_border(text: bytes) -> int:
    """Return the byte offset of the last safe border in a text, or -1."""
    end = len(text)
    while end > 0:
        start = max(end - _BLOCK_BYTES, 0)
        block = text[start:end].decode(errors="ignore")  # The slice may start within a character.
        for place in range(len(block) - 1, 0, -1):
            before, after = block[place - 1], block[place]
            word_ends = unicodedata.category(before)[0] == "L" and unicodedata.category(after)[0] in "PS"
            if word_ends or (after in " \t\r\n" and not before.isspace()):
                return end - len(block[place:].encode())
        if start == 0:
            break
        end -= len(block[1:].encode())  # The first character follows the last one of the block before it.
    return -1


_BLOCK_BYTES = 1 << 16
_CHARACTER_BYTES = 4

HARD_TEXTS = tuple(
    text.encode()
    for text in (
        "",
        " ",
        "<|endoftext|>",
        "a<|endoftext|> b",
        "it's we'll I'd you've 'S 'LL ' s 'x''re'",
        "  two   three    four \n\n \n\t\t x\r\n\r\n",
        "trailing   ",
        "0123 4.5e-6 ½ Ⅷ ٣٤ 一二 x1y2",
        "é e\u0301 ß ﬁ İ ı ǅ ʰ ª",
        "日本語 한국어 ไทย עברית العربية हिन्दी 😀👩‍👩‍👧 🇩🇪",
        "\u00a0nbsp\u3000wide\u2028line\u200bzero\ufeffmark\x85next\x1cfile",
        "\x00\x01\x7f \ufffd\ufffe\U0010ffff \ue000",
        "def f(x):\n    return {**x, 'a': [1, 2]}  # comment\n",
        "https://example.org/a?b=c&d=%20#e --- === ___ ``` $$$ ::",
        "a" * 300 + " " * 300 + "!" * 300,
    )
)


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes, or 0 if the system has no /proc."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
