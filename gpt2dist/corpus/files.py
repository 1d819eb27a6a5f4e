"""Reader for the decompressed bytes of a stored file."""

from types import TracebackType
from typing import Self

from gpt2dist.corpus.decompression import DamagedStreamError, decompressed
from gpt2dist.corpus.storage import damaged, open_file, unreadable

BLOCK_BYTES = 1 << 20
"""Bytes per read."""


class Stream:
    """Sequential reader of a file's decompressed bytes, as a context manager.

    Args:
        path: Path or URL of the file.
        compression: "", "gz", "zst", "xz" or "bz2".
        start: First byte to read; must be 0 if the file is compressed.

    Attributes:
        transcoded: Whether `read` returns text converted to UTF-8 instead of the file's bytes.
    """

    transcoded = False

    def __init__(self, path: str, compression: str = "", start: int = 0):
        self._path, self._compression = path, compression
        self._stored = open_file(path)
        self._stored.seek(start)
        self._file = decompressed(self._stored, compression) if compression else self._stored
        self._read = start

    def read(self) -> bytes:
        """Read up to `BLOCK_BYTES` bytes; return b"" at the end of the file.

        Raises:
            UserError: The file cannot be read, or its compressed data is damaged or of another kind.
        """
        try:
            block = self._file.read(BLOCK_BYTES)
        except (DamagedStreamError, OSError) as error:
            if isinstance(error, OSError) and (not self._compression or error.errno is not None):
                raise unreadable(self._path, error) from error
            raise damaged(self._path, f".{self._compression}", error) from None
        self._read += len(block)
        return block

    def stored(self, offset: int) -> int:
        """Estimate the stored size of the first `offset` decompressed bytes; exact for all that was read."""
        if not self._compression or not self._read:
            return offset
        return offset * self._stored.tell() // self._read

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stored.close()
