"""Split a stream of bytes at a separator into records of any length."""

import sys
from collections.abc import Iterator

from gpt2dist.corpus import documents, files
from gpt2dist.corpus.files import Stream


class FileRecords:
    """The records of a file that start in [start, end). The last one is read to its end, even beyond `end`.

    A separator ends a record and is not part of it; the last record may lack one. A UTF-8 byte-order mark at the
    start of the file is skipped.

    Args:
        stream: The file, positioned at byte max(0, start − 1).
        separator: Separator of the records; a single byte unless `start` is 0. None if the file is one record.
        start: First byte at which a record may start.
        end: Byte from which no record is read.

    Attributes:
        count: Number of records started so far.
        offset: First byte of the last of them in the file; -1 if the stream is transcoded.
    """

    def __init__(self, stream: Stream, separator: bytes | None, start: int = 0, end: int = sys.maxsize):
        self.count, self.offset = 0, start
        self._stream, self._separator = stream, separator
        self._start, self._end = start, end
        self._held, self._next = b"", start  # bytes read but not yet yielded, and their offset
        self._chunks: Iterator[bytes] = iter(())
        self._accounted = start

    def __iter__(self) -> Iterator[bytes | Iterator[bytes]]:
        """Yield each record as bytes, or as an iterator over its chunks if it is longer than `LONG_BYTES`.

        Chunks that the caller does not consume are skipped.
        """
        self._find_first()
        width = len(self._separator or b"")
        block = self._stream.read() if self._next < self._end else b""
        while self._held or block:
            *records, self._held = self._split(self._held + block)
            for record in records:
                if self._next >= self._end:
                    return
                self._begin(len(record) + width)
                yield record
            if self._next >= self._end:
                return
            if not block and self._held:  # the file does not end with a separator
                record, self._held = self._held, b""
                self._begin(len(record))
                yield record
            elif len(self._held) > documents.LONG_BYTES:
                self._begin(0)
                self._chunks = self._rest()
                yield self._chunks
                self._skip()
            block = self._stream.read()

    def take(self) -> int:
        """Skip the rest of the last record, and return the stored bytes read since the previous `take`."""
        self._skip()
        before, self._accounted = self._accounted, max(self._accounted, self._stream.stored(self._next))
        return self._accounted - before

    def _find_first(self) -> None:
        """Read up to the first record that starts in the range."""
        if self._start == 0:
            self._held = self._stream.read()
            if self._held.startswith(documents.UTF8_MARK):
                self._held = self._held.removeprefix(documents.UTF8_MARK)
                self._next = len(documents.UTF8_MARK)
            return
        assert self._separator is not None and len(self._separator) == 1
        self._next = self._start - 1
        while self._next < self._end - 1 and (block := self._stream.read()):
            found = block.find(self._separator)
            if found >= 0:
                self._next += found + 1
                self._held = block[found + 1 :]
                break
            self._next += len(block)
        else:
            self._next = self._end  # a record that covers the whole range belongs to an earlier piece
        self._accounted = self._next

    def _split(self, data: bytes) -> list[bytes]:
        return [data] if self._separator is None else data.split(self._separator)

    def _begin(self, length: int) -> None:
        self.count += 1
        self.offset = -1 if self._stream.transcoded else self._next
        self._next += length

    def _skip(self) -> None:
        for _ in self._chunks:
            pass

    def _rest(self) -> Iterator[bytes]:
        """Yield the chunks of the long record that starts with the held bytes."""
        overlap = max(len(self._separator or b"") - 1, 0)  # a separator can span two blocks
        while True:
            end = max(len(self._held) - overlap, 0)
            for start in range(0, end, files.BLOCK_BYTES):
                chunk = self._held[start : min(start + files.BLOCK_BYTES, end)]
                self._next += len(chunk)
                yield chunk
            self._held = self._held[end:]
            block = self._stream.read()
            last, *rest = (
                [self._held + block]
                if self._separator is None
                else ((self._held + block).split(self._separator, 1))
            )
            if rest or not block:
                self._next += len(last) + (len(self._separator or b"") if rest else 0)
                self._held = rest[0] if rest else b""
                yield last
                return
            self._held = last
