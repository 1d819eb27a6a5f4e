"""A split of a dataset as one stream of tokens: its shards in order, read across their borders.

What the stream looks like comes from the manifest; a shard is mapped when its first token is read. So opening
takes no longer and no more memory for 10,000 shards than for one, and positions are int64 throughout.
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
    """What a stream is made of: an array, or what `np.asarray` turns into one when it is first read."""

    @property
    def dtype(self) -> np.dtype: ...  # noqa: D102
    def __len__(self) -> int: ...
    def __array__(self) -> NDArray[Any]: ...


class LazyShard:
    """The tokens of a shard, which is opened when they are asked for.

    Args:
        manifest: Of the dataset.
        record: What it says of the shard.
        shuffled: Whether reads jump about in it.
    """

    def __init__(self, manifest: Manifest, record: ShardRecord, shuffled: bool):
        self._manifest, self._record, self._shuffled = manifest, record, shuffled
        self.dtype = np.dtype(manifest.dtype)

    def __len__(self) -> int:
        return self._record.tokens

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Maps the shard.

        Raises:
            UserError: It is missing, damaged, or not the one that the manifest describes.
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


def _do_not_read_around(tokens: NDArray[Any]) -> None:
    """Keeps the kernel from reading megabytes around each window, of which a shuffled run uses nothing soon."""
    base: Any = tokens
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_RANDOM)


class TokenStream:
    """The concatenation of token arrays, read without copying it together.

    Args:
        parts: 1-D arrays of token ids with one dtype, or shards that become such arrays when they are read.
        prefix: A token id that is put before the stream, or None. It makes the first token a target.
    """

    def __init__(self, parts: Sequence[Tokens], prefix: int | None = None):
        self.dtype = parts[0].dtype
        if prefix is not None:
            parts = [np.asarray([prefix], self.dtype), *parts]
        self._parts = parts
        lengths = [len(part) for part in parts]
        self._ends = np.cumsum(lengths, dtype=np.int64)
        # Both with one more: what lies behind the stream.
        self._begins = np.append(0, self._ends)
        self._lengths = np.append(lengths, 0)
        self._opened: dict[int, NDArray[np.integer]] = {}

    @classmethod
    def open(
        cls, manifest: Manifest, split: str, prefix: int | None = None, shuffled: bool = False
    ) -> "TokenStream":
        """The stream of one split of a dataset directory.

        Args:
            manifest: Of the dataset.
            split: Such as "train".
            prefix: As above.
            shuffled: Whether it will be read in no order, rather than from front to back.
        """
        shards = [LazyShard(manifest, record, shuffled) for record in manifest.shards_of(split)]
        return cls(shards, prefix)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, starts: NDArray[np.integer], length: int) -> NDArray[np.integer]:
        """Reads `length` tokens from each start.

        Args:
            starts: int64 array [B] of stream positions.
            length: Tokens per row.

        Returns:
            Array [B, length] in the dtype of the shards. Positions beyond the end of the stream are 0.
        """
        parts = np.searchsorted(self._ends, starts, side="right")
        offsets = starts - self._begins[parts]
        first = int(parts[0]) if len(parts) else len(self._parts)
        if (parts == first).all() and offsets.max(initial=0) + length <= self._lengths[first]:
            return sliding_window_view(self._part(first), length)[offsets]
        # A gather per shard would pay only where each has many rows: from 4 shards on, slices are as fast.
        pieces: list[NDArray[np.integer]] = [np.empty(0, self.dtype)]
        for part, offset in zip(parts.tolist(), offsets.tolist(), strict=True):
            pieces.append(self._tokens(part, offset, length))
            missing = length - len(pieces[-1])
            if missing:
                pieces += self._beyond(part, missing)
        return np.concatenate(pieces).reshape(-1, length)

    def _beyond(self, part: int, length: int) -> list[NDArray[np.integer]]:
        """The first `length` tokens behind a part, from as many parts as they lie in; zeros behind the last."""
        pieces = []
        while length and part + 1 < len(self._parts):
            part += 1
            pieces.append(self._tokens(part, 0, length))
            length -= len(pieces[-1])
        return [*pieces, np.zeros(length, self.dtype)]

    def _tokens(self, part: int, offset: int, length: int) -> NDArray[np.integer]:
        """At most `length` tokens of a part; none where there is no such part."""
        if part == len(self._parts):
            return np.zeros(0, self.dtype)
        return self._part(part)[offset : offset + length]

    def _part(self, part: int) -> NDArray[np.integer]:
        tokens = self._opened.get(part)
        if tokens is None:
            tokens = self._opened[part] = np.asarray(self._parts[part])
        return tokens


def check_files(manifest: Manifest, split: str) -> None:
    """Looks whether the files of a split are there and as large as the manifest says. Opens none.

    Raises:
        UserError: Names every file that is missing or has another size (ten at most).
    """
    wrong = []
    for record in manifest.shards_of(split):
        data, expected = token_file(manifest, record)
        index = index_file(manifest, record)
        size = _size(data)
        if size is None:
            wrong.append(f"{data}: no such file")
        elif size != expected:
            wrong.append(f"{data}: has {size:,} bytes, the manifest says {expected:,}")
        if index and not _size(index):
            wrong.append(f"{index}: no such file, or an empty one")
    if wrong:
        more = [f"… and {len(wrong) - _MOST_LISTED} more"] if len(wrong) > _MOST_LISTED else []
        listed = "".join(f"\n    {line}" for line in wrong[:_MOST_LISTED] + more)
        raise UserError(f"{manifest.directory}: its files are not whole; {_AGAIN}{listed}")


def _size(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None
