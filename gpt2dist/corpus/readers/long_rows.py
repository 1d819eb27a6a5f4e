"""Streaming parser for CSV rows that are too long to hold in memory: it finds and unquotes one cell.

It accepts the same rows as `csv.reader` with strict=True, except for quoted fields of too many lines.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from gpt2dist.corpus.documents import BadDocumentError
from gpt2dist.errors import Gpt2distError

_NO_QUOTING = "--quoting none treats quotes as ordinary characters"
UNCLOSED = f"a quote that is never closed ({_NO_QUOTING})"
_TEXT_AFTER_QUOTE = f"text after the quote that closes a field ({_NO_QUOTING})"
_CARRIAGE_RETURN = "a carriage return outside quotes that does not end a line"


@dataclass(frozen=True)
class Dialect:
    """Syntax of a table.

    Attributes:
        delimiter: Separator of the cells, one byte.
        quoting: Whether a quote at the start of a field opens a quoted field.
        max_field_lines: Maximum lines of a quoted field.
        crlf: Whether rows end with CR LF. Then a bare LF in a quoted field is no line end: it hides no row.
    """

    delimiter: bytes
    quoting: bool
    max_field_lines: int
    crlf: bool = False


class LongFieldError(Gpt2distError):
    """Raised when a quoted field spans more lines than the dialect allows.

    Attributes:
        line: Line within the row at which the field starts, 0-based.
    """

    def __init__(self, line: int):
        super().__init__(f"line {line} of the row: a quoted field of too many lines")
        self.line = line


def wrong_number(cells: int, columns: int) -> str:
    """Describe a row with the wrong number of cells."""
    return f"{cells} cells in a row of a table with {columns} columns"


def cell_parts(
    lines: Iterable[Iterable[bytes]], column: int, columns: int, dialect: Dialect
) -> Generator[bytes, None, None]:
    """Yield one cell of the first row of `lines`; leave the later lines unread.

    Args:
        lines: Lines in chunks, without the line feeds.
        column: Index of the cell, 0-based.
        columns: Expected number of cells in a row.
        dialect: Syntax of the table.

    Raises:
        BadDocumentError: The row has a different number of cells, a stray carriage return or malformed quoting.
        LongFieldError: A quoted field spans too many lines.
    """
    row = RowParser(column, dialect)
    for line in lines:
        yield from row.read_line(line)
        if not row.quoted:
            if row.cell + 1 != columns:
                raise row.bad(wrong_number(row.cell + 1, columns))
            return
    raise row.bad(UNCLOSED)


class _State(Enum):
    START = auto()
    PLAIN = auto()
    QUOTED = auto()
    CLOSING = auto()  # after a quote in a quoted cell: it closes the cell, or is the first of two
    END = auto()  # after a carriage return outside quotes


class RowParser:
    """Parser of one row.

    Args:
        column: Index of the wanted cell, 0-based.
        dialect: Syntax of the table.

    Attributes:
        cell: Index of the current cell, 0-based.
        lines: Number of lines read so far.
    """

    def __init__(self, column: int, dialect: Dialect):
        self.cell = self.lines = 0
        self._column, self._dialect = column, dialect
        self._state = _State.START
        self._field_line = self._field_lines = (
            0  # of the last quoted field: where it starts, how many lines it has
        )
        self._crlf = False  # whether the last line ended with CR LF

    @property
    def quoted(self) -> bool:
        """Whether the row continues in the next line."""
        return self._state is _State.QUOTED

    def bad(self, reason: str) -> BadDocumentError:
        """Build the error for this row."""
        return BadDocumentError(reason, self.lines)

    def read_line(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Parse the next line, and yield the bytes of the wanted cell.

        Raises:
            BadDocumentError: The line has a stray carriage return or malformed quoting.
            LongFieldError: The line is one too many for its quoted field.
        """
        quoted = self.quoted
        if quoted and (self._crlf or not self._dialect.crlf):
            self._field_lines += 1
            if self._field_lines > self._dialect.max_field_lines:
                raise LongFieldError(self._field_line)
        self.lines += 1
        line_feed, self._crlf = b"\n" if quoted else b"", False
        for chunk in chunks:
            yield from self._feed(line_feed + chunk)
            line_feed, self._crlf = b"", chunk.endswith(b"\r")

    def _feed(self, data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            cell = self.cell
            part, at = self._step(data, at)
            if part and cell == self._column:
                yield part

    def _step(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Return the cell's text up to the next quote or delimiter, and the position after that."""
        byte = data[at : at + 1]
        match self._state:
            case _State.START if byte == b'"' and self._dialect.quoting:
                self._state, self._field_line, self._field_lines = _State.QUOTED, self.lines - 1, 1
                return b"", at + 1
            case _State.QUOTED:
                end = data.find(b'"', at)
                if end < 0:
                    return data[at:], len(data)
                self._state = _State.CLOSING
                return data[at:end], end + 1
            case _State.CLOSING if byte == b'"':
                self._state = _State.QUOTED
                return byte, at + 1
            case _State.CLOSING if byte not in (self._dialect.delimiter, b"\r"):
                raise self.bad(_TEXT_AFTER_QUOTE)
            case _State.END if byte != b"\r":
                raise self.bad(_CARRIAGE_RETURN)
        return self._plain(data, at)

    def _plain(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Return the text up to the next delimiter or carriage return, and the position after that."""
        end = data.find(self._dialect.delimiter, at)
        text = data[at:] if end < 0 else data[at:end]
        found = text.find(b"\r")
        if found >= 0:
            self._state = _State.END
            return text[:found], at + found + 1
        self._state = _State.PLAIN if end < 0 else _State.START
        self.cell += end >= 0
        return text, at + len(text) + (end >= 0)
