"""Cuts sources into pieces and reads those, whatever their format."""

from gpt2dist.data.corpus.jsonl import read_jsonl
from gpt2dist.data.corpus.text import read_text
from gpt2dist.data.corpus.types import Items, Piece, Reading, Source
from gpt2dist.errors import UserError

_READERS = {"text": read_text, "jsonl": read_jsonl}


def cut(source: Source, size: int) -> list[Piece]:
    """Cuts a source into pieces of about `size` bytes where its format can be cut, else into one.

    The pieces depend on `size` and the source alone. An empty source has none.
    """
    step = size if source.format == "jsonl" and not source.compression else max(source.size, 1)
    bounds = [(start, min(start + step, source.size)) for start in range(0, source.size, step)]
    path = source.spool or source.path
    return [Piece(path, source.format, source.compression, start, end, end - start) for start, end in bounds]


def read(piece: Piece, reading: Reading) -> Items:
    """Reads the documents of a piece, in order; an empty text is a document too, a blank line is none.

    Returns:
        (When it has ended: `lines = yield from read(…)`.) The lines, rows or documents that the piece has, blank
        lines included, so that those of the next piece can be numbered from there.

    Raises:
        UserError: The source cannot be read.
    """
    try:
        return (yield from _READERS[piece.format](piece, reading))
    except OSError as error:
        raise UserError(
            f"{piece.path}: cannot be read ({error.strerror or error}); the job can be run again to go on"
        ) from error
