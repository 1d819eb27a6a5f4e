"""Decompression of files that consist of one or several compressed streams."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

STORED_BYTES = 1 << 16
"""Stored bytes per read."""


class DamagedStreamError(Exception):
    """Raised when compressed data cannot be decompressed; the message says where and why."""


class _Decompressor(Protocol):
    """Decompressor of one stream, such as `lzma.LZMADecompressor`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipDecompressor:
    """`zlib.decompressobj` for one gzip member, with the interface of `lzma.LZMADecompressor`."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS + 16)  # a gzip header and trailer, both checked
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        block = self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)
        self.needs_input = len(block) < max_length and not self._inflate.unconsumed_tail
        return block


@dataclass(frozen=True)
class _Kind:
    """Kind of compression."""

    decompressor: Callable[[], _Decompressor]
    padding: int
    """Zero bytes may follow a stream in multiples of this number; 0 if none may."""


_KINDS = {
    "gz": _Kind(_GzipDecompressor, 1),
    "xz": _Kind(partial(lzma.LZMADecompressor, lzma.FORMAT_XZ), 4),
    "bz2": _Kind(bz2.BZ2Decompressor, 0),
}


def decompressed(stored: Any, compression: str) -> Any:
    """Open a compressed file so that all of its streams are read.

    Args:
        stored: The file, opened for reading bytes.
        compression: "gz", "zst", "xz" or "bz2".

    Returns:
        An object with `read(size)`, which returns 1 to `size` bytes, and b"" at the end. If the data is damaged,
        it raises `DamagedStreamError`, or an OSError without errno.
    """
    if compression in _KINDS:
        return _Streams(stored, _KINDS[compression])
    # pyarrow reports a truncated frame, which the package zstandard would treat as the end of the file.
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(stored, mode="r"), "zstd")


class _Streams:
    """Reader of concatenated streams and the padding after them; anything else in the file is damage.

    `LZMAFile` and `BZ2File` cannot be used: they treat an error at the start of a later stream as the end of the
    file, and so drop the rest of a damaged or padded file.
    """

    def __init__(self, stored: Any, kind: _Kind):
        self._stored, self._kind = stored, kind
        self._number, self._start = 1, 0  # of the current stream
        self._stream = kind.decompressor()
        self._held = b""  # read after the end of the previous stream
        self._ended = False

    def read(self, size: int) -> bytes:
        while not self._ended:
            block = self._decompress(size)
            if self._stream.eof:
                self._start_next()
            if block:
                return block
        return b""

    def _decompress(self, size: int) -> bytes:
        data = b""
        if self._stream.needs_input:
            data, self._held = self._held or self._stored.read(STORED_BYTES), b""
            if not data:
                raise self._damaged("the file ends within it")
        try:
            return self._stream.decompress(data, size)
        except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:
            raise self._damaged(str(error)) from None

    def _start_next(self) -> None:
        """Skip the padding after a stream, and start the next stream unless the file ends."""
        rest, padding = self._stream.unused_data or self._stored.read(STORED_BYTES), 0
        while self._kind.padding and rest.startswith(b"\0"):
            found = rest.lstrip(b"\0")
            padding += len(rest) - len(found)
            rest = found or self._stored.read(STORED_BYTES)
        if padding and padding % self._kind.padding:
            raise self._damaged(
                f"{padding} zero bytes follow it; their number must be a multiple of {self._kind.padding}"
            )
        self._held, self._ended = rest, not rest
        if rest:
            self._number, self._start = self._number + 1, self._stored.tell() - len(rest)
            self._stream = self._kind.decompressor()

    def _damaged(self, what: str) -> DamagedStreamError:
        return DamagedStreamError(f"stream {self._number}, which starts at byte {self._start}: {what}")
