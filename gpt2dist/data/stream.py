"""A split of a dataset as one stream of tokens: its shards in order, read across their borders."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2dist.data.manifest import Manifest
from gpt2dist.data.shards import Shard


class TokenStream:
    """The concatenation of token arrays, read without copying it together.

    Args:
        arrays: 1-D arrays of token ids with one dtype, such as memory-mapped shards.
        prefix: A token id that is put before the stream, or None. It makes the first token a target.
    """

    def __init__(self, arrays: list[NDArray[np.integer]], prefix: int | None = None):
        if prefix is not None:
            arrays = [np.asarray([prefix], dtype=arrays[0].dtype), *arrays]
        self._arrays = arrays
        self._ends = np.cumsum([len(array) for array in arrays], dtype=np.int64)
        self.dtype = arrays[0].dtype

    @classmethod
    def open(cls, manifest: Manifest, split: str, prefix: int | None = None) -> "TokenStream":
        """Opens the shards of one split of a dataset directory."""
        directory = Path(manifest.directory)
        records = manifest.shards_of(split)
        return cls([Shard(directory / record.name).tokens for record in records], prefix)

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
        rows = np.zeros((len(starts), length), self.dtype)
        for row, start in zip(rows, starts, strict=True):
            self._copy(int(start), row)
        return rows

    def _copy(self, start: int, row: NDArray[np.integer]) -> None:
        filled = 0
        shard = int(np.searchsorted(self._ends, start, side="right"))
        while filled < len(row) and shard < len(self._arrays):
            array = self._arrays[shard]
            offset = start + filled - (int(self._ends[shard]) - len(array))
            piece = array[offset : offset + len(row) - filled]
            row[filled : filled + len(piece)] = piece
            filled += len(piece)
            shard += 1
