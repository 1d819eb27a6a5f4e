"""The bytes of a stored file, decompressed."""

import bz2
import gzip
import lzma
import zlib
from types import TracebackType
from typing import Any

from gpt2dist.corpus.storage import damaged, open_file

BLOCK_BYTES = 1 << 20
"""What is read at once."""


class Stream:
    """The bytes of a file; a context manager.

    Args:
        path: Where it lies.
        compression: "", "gz", "zst", "xz" or "bz2".
        start: The first byte to read; 0 where the file is compressed.
    """

    def __init__(self, path: str, compression: str = "", start: int = 0):
        self._path, self._compression = path, compression
        self._stored = open_file(path)
        self._stored.seek(start)
        self._file = _decompressed(self._stored, compression) if compression else self._stored
        self._read = start

    def read(self) -> bytes:
        """The next bytes, at most `BLOCK_BYTES`; none at the end.

        Raises:
            UserError: The file is not what its compression says.
            OSError: It cannot be read.
        """
        try:
            block = self._file.read(BLOCK_BYTES)
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if not self._compression or getattr(error, "errno", None) is not None:
                raise
            raise damaged(self._path, f".{self._compression}", error) from None
        self._read += len(block)
        return block

    def stored(self, offset: int) -> int:
        """About how many stored bytes the first `offset` bytes take; exact at the end of what was read."""
        if not self._compression or not self._read:
            return offset
        return offset * self._stored.tell() // self._read

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stored.close()


def _decompressed(stored: Any, compression: str) -> Any:
    """Reads all members and frames of a compressed file."""
    if compression == "gz":
        return gzip.GzipFile(fileobj=stored)
    if compression == "xz":
        return lzma.LZMAFile(stored)
    if compression == "bz2":
        return bz2.BZ2File(stored)
    import pyarrow  # notices a frame that is cut off, which the package zstandard takes for the end

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(stored, mode="r"), "zstd")
