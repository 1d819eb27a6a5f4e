"""A split of a dataset as one stream of tokens: its shards in order, read across shard boundaries.

The layout of the stream comes from the manifest, and a shard is mapped on its first read. Opening 10,000 shards
thus takes no more time and memory than opening one. Positions are int64 throughout.
"""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gpt2dist.dataset.dataset import index_file, open_shard, token_file
from gpt2dist.dataset.manifest import Manifest, ShardRecord
from gpt2dist.errors import UserError

_AGAIN = "copy the dataset again, or preprocess the corpus again"
_MOST_LISTED = 10


class Tokens(Protocol):
    """Part of a stream: an array, or an object that `np.asarray` turns into one on the first read."""

    @property
    def dtype(self) -> np.dtype: ...  # noqa: D102
    def __len__(self) -> int: ...
    def __array__(self) -> NDArray[Any]: ...


class LazyShard:
    """Tokens of a shard, which is opened on first use.

    Args:
        manifest: The manifest of the dataset.
        record: The shard's record in the manifest.
        shuffled: Whether the shard will be read in random order.
    """

    def __init__(self, manifest: Manifest, record: ShardRecord, shuffled: bool):
        self._manifest, self._record, self._shuffled = manifest, record, shuffled
        self.dtype = np.dtype(manifest.dtype)

    def __len__(self) -> int:
        return self._record.tokens

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Map the shard into memory.

        Raises:
            UserError: The shard is missing or damaged, or differs from the manifest in length or dtype.
        """
        tokens = open_shard(self._manifest, self._record).tokens
        if (len(tokens), tokens.dtype) != (len(self), self.dtype):
            raise UserError(
                f"{token_file(self._manifest, self._record)[0]}: holds {len(tokens):,} tokens of "
                f"{tokens.dtype}, the manifest says {len(self):,} of {self.dtype}; {_AGAIN}"
            )
        if self._shuffled:
            _do_not_read_around(tokens)
        return tokens

    def beyond_vocabulary(self, offset: int, token: int) -> UserError:
        """Return an error that names the place of a token that is not in the vocabulary."""
        manifest, record = self._manifest, self._record
        ends = open_shard(manifest, record).document_ends
        document = int(np.searchsorted(ends, offset, side="right"))
        begin = int(ends[document - 1]) if document else 0
        others = manifest.shards_of(record.split)
        before = sum(each.documents for each in others[: others.index(record)])
        return UserError(
            f"{token_file(manifest, record)[0]}: token {offset:,} (document {before + document:,} of "
            f"{record.split}, its token {offset - begin:,}) is {token:,}, and the vocabulary has "
            f"{manifest.vocab_size:,} ids; the file is damaged, or was made with another tokenizer: {_AGAIN}. "
            f"`gpt2dist inspect {manifest.directory} --verify` finds all damage"
        )


def _do_not_read_around(tokens: NDArray[Any]) -> None:
    """Disable readahead of megabytes around each window, which a shuffled run does not need soon."""
    base: Any = tokens
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_RANDOM)


class TokenStream:
    """Concatenation of token arrays that is never copied into one array.

    Args:
        parts: 1-D arrays of token ids with one dtype, or shards that become such arrays when they are read.
        prefix: A token id to prepend to the stream, or None. It makes the first token a target.
        vocab_size: Number of ids; reading an id that is not below raises a UserError. None to skip this check.
    """

    def __init__(self, parts: Sequence[Tokens], prefix: int | None = None, vocab_size: int | None = None):
        self.dtype = parts[0].dtype
        self._vocab_size = vocab_size
        # As unsigned numbers, negative ids are beyond any vocabulary.
        self._unsigned = np.dtype(f"u{self.dtype.itemsize}")
        if prefix is not None:
            parts = [np.asarray([prefix], self.dtype), *parts]
        self._parts = parts
        lengths = [len(part) for part in parts]
        self._ends = np.cumsum(lengths, dtype=np.int64)
        # Both have one more entry, for positions beyond the end of the stream.
        self._begins = np.append(0, self._ends)
        self._lengths = np.append(lengths, 0)
        self._opened: dict[int, NDArray[np.integer]] = {}

    @classmethod
    def open(
        cls, manifest: Manifest, split: str, prefix: int | None = None, shuffled: bool = False
    ) -> "TokenStream":
        """Open one split of a dataset directory as a stream.

        Args:
            manifest: The manifest of the dataset.
            split: Name of the split, such as "train".
            prefix: A token id to prepend to the stream, or None.
            shuffled: Whether the stream will be read in random order, not sequentially.
        """
        shards = [LazyShard(manifest, record, shuffled) for record in manifest.shards_of(split)]
        return cls(shards, prefix, manifest.vocab_size)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, starts: NDArray[np.integer], length: int) -> NDArray[np.integer]:
        """Read `length` tokens from each start.

        Args:
            starts: int64 array [B] of stream positions.
            length: Tokens per row.

        Returns:
            Array [B, length] in the dtype of the shards. Positions beyond the end of the stream are 0.

        Raises:
            UserError: A shard is missing or damaged, or a token is not in the vocabulary.
        """
        tokens = self._gather(starts, length)
        # A model on a GPU would fail with a device-side assert, which does not name the token.
        if self._vocab_size is not None and tokens.view(self._unsigned).max(initial=0) >= self._vocab_size:
            raise self._beyond_vocabulary(tokens, starts, self._vocab_size)
        return tokens

    def _gather(self, starts: NDArray[np.integer], length: int) -> NDArray[np.integer]:
        parts = np.searchsorted(self._ends, starts, side="right")
        offsets = starts - self._begins[parts]
        first = int(parts[0]) if len(parts) else len(self._parts)
        if (parts == first).all() and offsets.max(initial=0) + length <= self._lengths[first]:
            return sliding_window_view(self._part(first), length)[offsets]
        # One gather per shard would pay off only with many rows in each: from 4 shards on, slices are as fast.
        pieces: list[NDArray[np.integer]] = [np.empty(0, self.dtype)]
        for part, offset in zip(parts.tolist(), offsets.tolist(), strict=True):
            pieces.append(self._tokens(part, offset, length))
            missing = length - len(pieces[-1])
            if missing:
                pieces += self._beyond(part, missing)
        return np.concatenate(pieces).reshape(-1, length)

    def _beyond_vocabulary(
        self, tokens: NDArray[np.integer], starts: NDArray[np.integer], vocab_size: int
    ) -> UserError:
        row, column = np.argwhere(tokens.view(self._unsigned) >= vocab_size)[0]
        token, place = int(tokens[row, column]), int(starts[row] + column)
        number = int(np.searchsorted(self._ends, place, side="right"))
        part = self._parts[number]
        if isinstance(part, LazyShard):
            return part.beyond_vocabulary(place - int(self._begins[number]), token)
        return UserError(f"token {place:,} of the text is {token:,}, and the vocabulary has {vocab_size:,} ids")

    def _beyond(self, part: int, length: int) -> list[NDArray[np.integer]]:
        """Return the first `length` tokens after a part, from one or more parts; zeros after the last part."""
        pieces = []
        while length and part + 1 < len(self._parts):
            part += 1
            pieces.append(self._tokens(part, 0, length))
            length -= len(pieces[-1])
        return [*pieces, np.zeros(length, self.dtype)]

    def _tokens(self, part: int, offset: int, length: int) -> NDArray[np.integer]:
        """Return at most `length` tokens of a part; no tokens if the part lies beyond the stream."""
        if part == len(self._parts):
            return np.zeros(0, self.dtype)
        return self._part(part)[offset : offset + length]

    def _part(self, part: int) -> NDArray[np.integer]:
        tokens = self._opened.get(part)
        if tokens is None:
            tokens = self._opened[part] = np.asarray(self._parts[part])
        return tokens


def check_files(manifest: Manifest, split: str) -> None:
    """Check that the files of a split exist and have the sizes given in the manifest, without opening them.

    Raises:
        UserError: A file is missing or has another size, or an index is empty; the message lists up to ten files.
    """
    wrong = []
    for record in manifest.shards_of(split):
        data, expected = token_file(manifest, record)
        index = index_file(manifest, record)
        size = _file_size(data)
        if size is None:
            wrong.append(f"{data}: no such file")
        elif size != expected:
            wrong.append(f"{data}: has {size:,} bytes, the manifest says {expected:,}")
        if index and not _file_size(index):
            wrong.append(f"{index}: no such file, or an empty one")
    if wrong:
        more = [f"… and {len(wrong) - _MOST_LISTED} more"] if len(wrong) > _MOST_LISTED else []
        listed = "".join(f"\n    {line}" for line in wrong[:_MOST_LISTED] + more)
        raise UserError(f"{manifest.directory}: its files do not match the manifest; {_AGAIN}{listed}")


def _file_size(path: Path) -> int | None:
    """Return the size of a file in bytes, or None if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return None
