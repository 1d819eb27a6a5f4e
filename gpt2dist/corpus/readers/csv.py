"""Reader of comma-separated and tab-separated tables with the column names in the first row.

The module csv parses them strictly: it treats a quote in the middle of an unquoted field as an ordinary
character, and refuses text after a closing quote. A quoted field of too many lines stops the job, since it is
most likely a stray quote that hides all rows up to the next one.
"""

import csv
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
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
    join_parts,
)
from gpt2dist.corpus.readers.base import Reader
from gpt2dist.corpus.readers.fields import no_column
from gpt2dist.corpus.readers.long_rows import (
    UNCLOSED,
    Dialect,
    LongFieldError,
    RowParser,
    cell_parts,
    wrong_number,
)
from gpt2dist.corpus.readers.records import FileRecords
from gpt2dist.corpus.text_stream import TextStream
from gpt2dist.corpus.utf8 import repair, repair_parts
from gpt2dist.errors import UserError

QUOTING = {"standard": True, "none": False}
"""Whether a quote at the start of a field opens a quoted field, by the names of `Reading.quoting`."""


class TableReader(Reader):
    """Reader of tables with a row per line.

    Args:
        suffix: Suffix of the files.
        delimiter: Character between two cells.
    """

    compressible = has_encodings = True

    def __init__(self, suffix: str, delimiter: str):
        self.suffixes = (suffix,)
        self._delimiter = delimiter

    def read(self, piece: Piece, reading: Reading) -> Items:
        """Read the rows of a file. Blank lines and the header are not documents."""
        return _read(piece, reading, self._delimiter)


CSV, TSV = TableReader(".csv", ","), TableReader(".tsv", "\t")


def _read(piece: Piece, reading: Reading, delimiter: str) -> Items:
    # The limit is global to the process. Rows longer than LONG_BYTES never reach it: `long_rows` reads them.
    csv.field_size_limit(max(csv.field_size_limit(), 4 * documents.LONG_BYTES))
    with TextStream(piece, reading.encoding) as stream:
        records = FileRecords(stream, b"\n")
        yield from _Table(piece, reading, records, delimiter).rows()
        return records.count


class _Table:
    """Parser of one file.

    The csv module accepts only str. Decoding as latin-1 maps each byte to one character, so no byte is lost.
    """

    def __init__(self, piece: Piece, reading: Reading, records: FileRecords, delimiter: str):
        self._path, self._records = piece.path, records
        quoting = QUOTING[reading.quoting]
        self._dialect = Dialect(delimiter.encode(), quoting, reading.max_field_lines)
        self._lines = _Lines(records, self._dialect)
        self._reader = csv.reader(
            self._lines,
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
            strict=True,
        )
        header = self._header()
        self._end_rows_with(crlf=self._lines.ends_with_crlf)
        if reading.text_field not in header:
            raise no_column(piece.path, reading.text_field, header)
        self._column, self._cells = header.index(reading.text_field), len(header)

    def _end_rows_with(self, crlf: bool) -> None:
        self._dialect = self._lines.dialect = replace(self._dialect, crlf=crlf)

    def rows(self) -> Iterator[Item]:
        """Yield the documents."""
        while True:
            if self._dialect.crlf and not self._lines.ends_with_crlf:
                self._end_rows_with(crlf=False)
            self._lines.begin()
            try:
                row = self._next_row()
            except _LongRow:
                document = self._long_row()
                yield document
                with suppress(BadDocumentError):
                    deque(document.parts, maxlen=0)  # the next row starts after these parts
                continue
            except BadDocumentError as error:
                yield self._rejected(str(error))
                continue
            if row is None:
                return
            if row:
                yield self._row(row)

    def _next_row(self) -> list[str] | None:
        """Return the cells of the next row, [] for a blank line; None at the end of the file.

        Raises:
            BadDocumentError: The row is malformed.
            UserError: A quoted field has too many lines.
        """
        try:
            return next(self._reader, None)
        except LongFieldError as error:
            raise self._long_field(error) from None
        except csv.Error as error:
            # `RowParser` finds the same mistake and describes it better.
            raise BadDocumentError(UNCLOSED if self._lines.parse().quoted else str(error)) from None

    def _header(self) -> list[str]:
        names: list[str] | None = []
        try:
            while names == []:
                self._lines.begin()
                names = self._next_row()
        except _LongRow:
            names = ["\0"]
        except BadDocumentError as error:
            raise UserError(
                f"{self._path}: line {self._lines.line}: the first row must name the columns, but has {error}"
            ) from None
        if any("\0" in name for name in names or ()):
            raise UserError(
                f"{self._path}: the first row has no column names: the file is binary, or text in another "
                "encoding; name the encoding, such as --encoding utf-16-le, or exclude the file"
            )
        return [name.encode("latin-1").decode("utf-8", errors="replace") for name in names or ()]

    def _row(self, row: list[str]) -> Item:
        if len(row) != self._cells:
            return self._rejected(wrong_number(len(row), self._cells))
        text, repaired = repair(row[self._column].encode("latin-1"))
        return Document(text, self._lines.line, self._lines.offset, self._records.take(), repaired)

    def _rejected(self, reason: str) -> Rejected:
        lines = self._lines
        return Rejected(lines.line, lines.offset, self._records.take(), reason, lines.count)

    def _long_row(self) -> LongDocument:
        lines = self._lines
        cell = cell_parts(lines.rest(), self._column, self._cells, self._dialect)
        parts = repair_parts(self._checked(join_parts(cell)))
        return LongDocument(lines.line, lines.offset, parts, self._records.take)

    def _checked(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from parts
        except LongFieldError as error:
            raise self._long_field(error) from None

    def _long_field(self, error: LongFieldError) -> UserError:
        return UserError(
            f"{self._path}: line {self._lines.line + error.line}: a quoted field starts here and does not end "
            f"within {self._dialect.max_field_lines:,} lines. If quotes are ordinary characters in this file, "
            "use --quoting none; if its fields are that long, raise --max-field-lines"
        )


class _LongRow(Exception):
    """Raised when a row is longer than `LONG_BYTES`."""


class _Lines:
    """Iterator over the lines of a file for csv.reader, which requests the lines of one row at a time.

    Attributes:
        line: First line of the row, 1-based.
        offset: First byte of the row.
        dialect: Syntax of the table.
    """

    def __init__(self, records: FileRecords, dialect: Dialect):
        self._records, self._source, self.dialect = records, iter(records), dialect
        self.begin()

    def begin(self) -> None:
        """Start a new row."""
        self.line, self.offset = 0, -1
        self._size = 0
        self._row: list[bytes | Iterator[bytes]] = []
        self._parser: RowParser | None = None

    @property
    def count(self) -> int:
        """The number of lines of the row so far."""
        return len(self._row)

    @property
    def ends_with_crlf(self) -> bool:
        """Whether the row that was read ends with CR LF; True for a row that is too long to be kept."""
        last = self._row[-1] if self._row else b""
        return not isinstance(last, bytes) or last.endswith(b"\r")

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._source, None)
        if line is None:
            raise StopIteration
        if not self._row:
            self.line, self.offset = self._records.count, self._records.offset
        self._row.append(line)
        if not isinstance(line, bytes):
            raise _LongRow
        self._size += len(line)
        if self._size > documents.LONG_BYTES:
            raise _LongRow
        if len(self._row) > self.dialect.max_field_lines:
            self.parse()
        return line.decode("latin-1") + "\n"

    def parse(self) -> RowParser:
        """Parse the lines of this row that csv.reader has consumed once more, and return the parser.

        Raises:
            BadDocumentError: The row is malformed.
            LongFieldError: A quoted field has too many lines.
        """
        self._parser = self._parser or RowParser(0, self.dialect)
        for line in self._row[self._parser.lines :]:
            assert isinstance(line, bytes), "a row with a long line is parsed by `cell_parts` alone"
            deque(self._parser.read_line((line,)), maxlen=0)
        return self._parser

    def rest(self) -> Iterator[Iterator[bytes]]:
        """Yield the lines of this row that csv.reader has consumed, then all later lines, each in chunks."""
        for line in chain(self._row, self._source):
            yield iter((line,)) if isinstance(line, bytes) else line
