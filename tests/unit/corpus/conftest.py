"""Reads whole corpora, for the tests of their parts."""

from dataclasses import dataclass

import pytest

from gpt2dist.corpus import BadDocumentError, LongDocument, Reading, Rejected, Skipped, cut, discover, read


@dataclass(frozen=True)
class Seen:
    """A document as it was read; `text` is None and `reason` set where it was rejected."""

    text: str | None
    line: int
    offset: int
    size: int
    repaired: bool = False
    reason: str = ""
    lines: int = 1
    long: bool = False


def see(item):
    if isinstance(item, Skipped):
        return item
    if isinstance(item, Rejected):
        return Seen(None, item.line, item.offset, item.size, reason=item.reason, lines=item.lines)
    if not isinstance(item, LongDocument):
        return Seen(item.text.decode(), item.line, item.offset, item.size, item.repaired)
    try:
        text = "".join([part.decode() for part in item.parts])  # each part is valid by itself
    except BadDocumentError as error:
        return Seen(None, item.line, item.offset, item.size, reason=str(error), lines=error.lines, long=True)
    return Seen(text, item.line, item.offset, item.size, item.repaired, long=True)


@pytest.fixture(scope="session")
def read_piece():
    """Reads a piece: `documents, lines = read_piece(piece)`; options are those of `Reading`."""

    def collect(piece, **options):
        reader, seen = read(piece, Reading(**options)), []
        while True:
            try:
                seen.append(see(next(reader)))
            except StopIteration as end:
                return seen, end.value

    return collect


@pytest.fixture(scope="session")
def read_corpus(read_piece):
    """Finds, cuts and reads a corpus of one source; lines are counted through its pieces."""

    def collect(name, size=1 << 40, **options):
        (source,) = discover([str(name)])
        pieces = cut(source, size)
        assert sum(piece.size for piece in pieces) == source.size
        documents, before = [], 0
        for piece in pieces:
            seen, lines = read_piece(piece, **options)
            documents += [Seen(**{**vars(item), "line": before + item.line}) for item in seen]
            before += lines
        return documents

    return collect
