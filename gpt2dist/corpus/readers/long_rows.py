"""Streaming parser for CSV rows that are too long to hold in memory: it finds and unquotes one cell."""

from collections.abc import Iterator
from enum import Enum, auto

from gpt2dist.corpus.documents import BadDocumentError

UNCLOSED = "a quote that is never closed"


def wrong_number(cells: int, columns: int) -> str:
    """Describe a row with the wrong number of cells."""
    return f"{cells} cells in a row of a table with {columns} columns"


def cell_parts(lines: Iterator[Iterator[bytes]], column: int, columns: int, delimiter: bytes) -> Iterator[bytes]:
    """Yield one cell of the first row of `lines`, parsed as by the csv module; leave the later lines unread.

    Args:
        lines: Lines in chunks, without the line feeds.
        column: Index of the cell, 0-based.
        columns: Expected number of cells in a row.
        delimiter: Separator of the cells.

    Raises:
        BadDocumentError: The row has a different number of cells, a stray carriage return or an unclosed quote.
    """
    row = _Row(column, delimiter)
    for line in lines:
        held = b""  # a carriage return, which is dropped at the end of the row
        for chunk in line:
            data = held + chunk
            held = b"\r" if data.endswith(b"\r") else b""
            yield from row.feed(data.removesuffix(held))
        if not row.quoted:
            if row.cell + 1 != columns:
                raise BadDocumentError(wrong_number(row.cell + 1, columns))
            return
        yield from row.feed(held + b"\n")
    raise BadDocumentError(UNCLOSED)


class _State(Enum):
    START = auto()
    PLAIN = auto()
    QUOTED = auto()
    CLOSING = auto()  # after a quote in a quoted cell: it closes the cell, or is the first of two


class _Row:
    """Parser state within a row."""

    def __init__(self, column: int, delimiter: bytes):
        self.cell = 0
        self._column, self._delimiter = column, delimiter
        self._state = _State.START

    @property
    def quoted(self) -> bool:
        """Whether a line feed belongs to the cell."""
        return self._state is _State.QUOTED

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Parse the next bytes, and yield those of the wanted cell."""
        at = 0
        while at < len(data):
            cell = self.cell
            part, at = self._step(data, at)
            if part and cell == self._column:
                yield part

    def _step(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Return the cell's text up to the next quote or delimiter, and the position after that."""
        quote = data[at : at + 1] == b'"'
        if self._state is _State.START:
            self._state = _State.QUOTED if quote else _State.PLAIN
            return b"", at + quote
        if self._state is _State.CLOSING:
            self._state = _State.QUOTED if quote else _State.PLAIN
            return data[at : at + quote], at + quote
        mark = b'"' if self.quoted else self._delimiter
        end = data.find(mark, at)
        text = data[at:] if end < 0 else data[at:end]
        if not self.quoted and b"\r" in text:
            raise BadDocumentError("a carriage return outside quotes that ends no line")
        if end >= 0:
            self._state = _State.CLOSING if self.quoted else _State.START
            self.cell += mark == self._delimiter
        return text, at + len(text) + (end >= 0)
