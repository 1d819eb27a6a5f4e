"""Rows of a table in text too long to be held: a cell is found and unquoted while the row goes by."""

from collections.abc import Iterator
from enum import Enum, auto

from gpt2dist.corpus.documents import BadDocumentError

UNCLOSED = "a quote that is never closed"


def wrong_number(cells: int, columns: int) -> str:
    """Why a row is bad that is too short or too long."""
    return f"{cells} cells in a row of a table with {columns} columns"


def cell_parts(lines: Iterator[Iterator[bytes]], column: int, columns: int, delimiter: bytes) -> Iterator[bytes]:
    """A cell of the row that the lines begin with, read as the module csv does; takes no line behind the row.

    Args:
        lines: In chunks, without the line feeds.
        column: Number of the cell, from 0.
        columns: Cells that a row has.
        delimiter: What stands between cells.

    Raises:
        BadDocumentError: The row has another number of cells, or does not end.
    """
    row = _Row(column, delimiter)
    for line in lines:
        held = b""  # a carriage return that may end the line
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
    CLOSING = auto()  # behind a quote within quotes, which ends them or is the first of two


class _Row:
    """Where a row has come to."""

    def __init__(self, column: int, delimiter: bytes):
        self.cell = 0
        self._column, self._delimiter = column, delimiter
        self._state = _State.START

    @property
    def quoted(self) -> bool:
        """Whether a line feed belongs to the cell."""
        return self._state is _State.QUOTED

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Goes on; gives what belongs to the wanted cell."""
        at = 0
        while at < len(data):
            cell = self.cell
            part, at = self._step(data, at)
            if part and cell == self._column:
                yield part

    def _step(self, data: bytes, at: int) -> tuple[bytes, int]:
        """The text up to the next byte that means something, and what lies behind that."""
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
