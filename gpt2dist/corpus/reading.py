"""Cut sources of any format into pieces, and read the pieces."""

from gpt2dist.corpus.documents import Items, Piece, Reading, Source
from gpt2dist.corpus.formats import reader
from gpt2dist.corpus.storage import unreadable
from gpt2dist.errors import UserError


def cut(source: Source, size: int, encoding: str | None = None) -> list[Piece]:
    """Cut a source into pieces of about `size` bytes; return a single piece if the format cannot be cut.

    The pieces depend only on the arguments and the source. An empty source has no pieces.

    Args:
        source: The source.
        size: Bytes per piece.
        encoding: The encoding with which the pieces will be read; see `Reading`.

    Raises:
        UserError: The source cannot be read, or is empty where its format has at least a header.
    """
    found = reader(source.format)
    if not source.size and (source.compression or found.never_empty):
        raise UserError(f"{source.path}: empty, without even a header; get it again, or exclude it")
    try:
        return found.cut(source, size, encoding)
    except OSError as error:
        raise unreadable(source.path, error) from error


def read(piece: Piece, reading: Reading) -> Items:
    """Read the documents of a piece, in order. An empty text is a document; a blank line is not.

    Returns:
        The number of lines (blank ones included), rows or documents in the piece, from which the next piece
        continues the numbering. The generator returns it at the end: `lines = yield from read(…)`.

    Raises:
        UserError: The source cannot be read.
        TypeError: The reader returns something other than a number, which is a bug in it.
    """
    try:
        lines = yield from reader(piece.format).read(piece, reading)
    except OSError as error:
        raise unreadable(piece.path, error) from error
    if not isinstance(lines, int):
        raise TypeError(
            f"the reader {piece.format} returned {type(lines).__name__}; `Reader.read` returns the number of "
            "lines, rows or records of the piece"
        )
    return lines
