"""The file of a corpus that is cut into pieces: a line of JSON for each source, with its stamp and its pieces.

A piece is [start, end, size], followed by its path, format and compression if they are not those of its source.
The file may have millions of lines. `StoredPieces` refers to those of a task and reads them one at a time;
`matched` finds the pieces of documents on the way.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from gpt2dist.corpus import Piece, Source
from gpt2dist.errors import UserError

Item = TypeVar("Item")
Found = TypeVar("Found")

KEYS = ("path", "format", "compression", "size", "version", "spool")
"""The fields of a source."""


def line(source: Source, stamp: str, pieces: Iterable[Piece]) -> str:
    """Return the line of a source."""
    stored = []
    for piece in pieces:
        kind = (piece.path, piece.format, piece.compression)
        stored.append([piece.start, piece.end, piece.size, *(() if kind == _kind(source) else kind)])
    return json.dumps({**vars(source), "stamp": stamp, "pieces": stored})


def read_lines(path: Path, offset: int = 0) -> Iterator[tuple[Source, str, list[Piece]]]:
    """Yield each source with its stamp and its pieces, from a byte offset on.

    Raises:
        UserError: The file cannot be read; it is part of the unfinished work.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            for text in file:
                content = json.loads(text)
                source = Source(*(content[key] for key in KEYS))
                yield source, content["stamp"], [_piece(source, each) for each in content["pieces"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); remove the unfinished work (rm -r {path.parents[2]}) and run the "
            "command again"
        ) from None


@dataclass(frozen=True)
class StoredPieces:
    """The pieces of a task, which are read from a file. Iterating holds one line at a time in memory."""

    path: Path
    """The file."""
    offset: int
    """The byte where the line of the first piece begins."""
    skipped: int
    """Pieces of that line that belong to earlier tasks."""
    length: int
    """The number of pieces."""
    size: int
    """Bytes of all of them."""

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Piece]:
        pieces = (piece for _, _, pieces in read_lines(self.path, self.offset) for piece in pieces)
        return islice(pieces, self.skipped, self.skipped + self.length)

    def sources(self) -> Iterator[tuple[Source, str]]:
        """Yield the sources of the pieces with their stamps."""
        left = self.skipped + self.length
        for source, stamp, pieces in read_lines(self.path, self.offset):
            if left <= 0:
                return
            if pieces:
                yield source, stamp
            left -= len(pieces)


def matched(
    items: Iterable[Item], number: Callable[[Item], int], pieces: Iterable[Found], first: int = 0
) -> Iterator[tuple[Found, Item]]:
    """Yield each item with its piece, while one piece at a time is in memory.

    Args:
        items: The items, in the order of their pieces.
        number: Returns the number of an item's piece.
        pieces: The pieces, or something about each of them.
        first: The number of the first one.
    """
    numbered = iter(pieces)
    for wanted, group in groupby(items, number):
        piece = next(islice(numbered, wanted - first, None))
        first = wanted + 1
        for item in group:
            yield piece, item


def _kind(source: Source) -> tuple[str, str, str]:
    return source.location, source.format, source.compression


def _piece(source: Source, stored: list[Any]) -> Piece:
    path, format, compression = stored[3:] or _kind(source)
    return Piece(path, format, compression, *stored[:3])
