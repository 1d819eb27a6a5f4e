"""Reader of comma-separated and tab-separated tables with the column names in the first row."""

import csv
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain

from gpt2dist.corpus import documents
from gpt2dist.corpus.documents import (
    BadDocumentError,
    Document,
    Item,
    Items,
    LongDocument,
    Piece,
    Reading,
    Rejected,
)
from gpt2dist.corpus.readers.fields import no_column
from gpt2dist.corpus.readers.long_rows import UNCLOSED, cell_parts, wrong_number
from gpt2dist.corpus.readers.records import FileRecords
from gpt2dist.corpus.text_stream import TextStream
from gpt2dist.corpus.utf8 import repair, repair_parts
from gpt2dist.errors import UserError

DELIMITERS = {"csv": ",", "tsv": "\t"}


def read_delimited(piece: Piece, reading: Reading) -> Items:
    """Read the rows of a file. Blank lines and the header are not counted."""
    # The limit is global to the process. Rows longer than LONG_BYTES never reach it: `long_rows` reads them.
    csv.field_size_limit(max(csv.field_size_limit(), 4 * documents.LONG_BYTES))
    with TextStream(piece, reading.encoding) as stream:
        table = _Table(piece, reading, stream)
        yield from table.rows()
        return table.count


class _Table:
    """Parser of one file.

    The csv module accepts only str. Decoding as latin-1 maps each byte to one character, so no byte is lost.
    """

    def __init__(self, piece: Piece, reading: Reading, stream: TextStream):
        self.count = 0
        self._delimiter = DELIMITERS[piece.format]
        self._records = FileRecords(stream, b"\n")
        self._lines = _Lines(self._records)
        self._reader = csv.reader(self._lines, delimiter=self._delimiter)
        header = self._header(piece)
        if reading.text_field not in header:
            raise no_column(piece.path, reading.text_field, header)
        self._column, self._cells = header.index(reading.text_field), len(header)

    def rows(self) -> Iterator[Item]:
        """Yield the documents."""
        while True:
            self._lines.begin()
            try:
                row = next(self._reader, None)
            except _LongRow:
                self.count += 1
                document = self._long_row()
                yield document
                with suppress(BadDocumentError):
                    deque(document.parts, maxlen=0)  # the next row starts after these parts
                continue
            except csv.Error as error:
                self.count += 1
                yield self._rejected(f"not {self._delimiter!r}-separated: {error}")
                continue
            if row is None:
                return
            if row:
                self.count += 1
                yield self._row(row)

    def _header(self, piece: Piece) -> list[str]:
        try:
            names = next((row for row in self._reader if row), [])
        except (_LongRow, csv.Error):
            names = ["\0"]
        if any("\0" in name for name in names):
            raise UserError(
                f"{piece.path}: its first row names no columns: it is binary, or text in another encoding; "
                "--encoding NAME reads it, such as --encoding utf-16-le; or leave it out"
            )
        return [name.encode("latin-1").decode("utf-8", errors="replace") for name in names]

    def _row(self, row: list[str]) -> Item:
        if self._lines.ended:
            return self._rejected(UNCLOSED)
        if len(row) != self._cells:
            return self._rejected(wrong_number(len(row), self._cells))
        text, repaired = repair(row[self._column].encode("latin-1"))
        return Document(text, self.count, self._lines.offset, self._records.take(), repaired)

    def _rejected(self, reason: str) -> Rejected:
        return Rejected(self.count, self._lines.offset, self._records.take(), reason)

    def _long_row(self) -> LongDocument:
        lines = self._lines
        cell = cell_parts(lines.rest(), self._column, self._cells, self._delimiter.encode())
        return LongDocument(self.count, lines.offset, repair_parts(cell), self._records.take)


class _LongRow(Exception):
    """Raised when a row is longer than `LONG_BYTES`."""


class _Lines:
    """Iterator over the lines of a file for csv.reader, which requests the lines of one row at a time.

    Attributes:
        offset: First byte of the row.
        ended: Whether the file ended within the row.
    """

    def __init__(self, records: FileRecords):
        self._records, self._source = records, iter(records)
        self.begin()

    def begin(self) -> None:
        """Start a new row."""
        self.offset, self.ended = -1, False
        self._size = 0
        self._row: list[bytes | Iterator[bytes]] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._source, None)
        if line is None:
            self.ended = True
            raise StopIteration
        if not self._row:
            self.offset = self._records.offset
        self._row.append(line)
        if not isinstance(line, bytes):
            raise _LongRow
        self._size += len(line)
        if self._size > documents.LONG_BYTES:
            raise _LongRow
        return line.decode("latin-1") + "\n"

    def rest(self) -> Iterator[Iterator[bytes]]:
        """Yield the lines of this row that csv.reader has consumed, then all later lines, each in chunks."""
        for line in chain(self._row, self._source):
            yield iter((line,)) if isinstance(line, bytes) else line
