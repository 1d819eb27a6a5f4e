"""Cut sources of any format into pieces, and read the pieces."""

from collections.abc import Callable

from gpt2dist.corpus.documents import Items, Piece, Reading, Source
from gpt2dist.corpus.encodings import can_cut_at_line_feeds
from gpt2dist.corpus.formats import HUB_PREFIX
from gpt2dist.corpus.storage import unreadable
from gpt2dist.errors import UserError

_WITH_HEADER = ("parquet", "arrow")
"""Formats whose files are never empty, beside those of compressed files."""


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
    if not source.size and (source.compression or source.format in _WITH_HEADER):
        raise UserError(
            f"{source.path}: holds no byte, not even the header of such a file; get it again, or leave it out"
        )
    try:
        return _cutter(source, size, encoding)(source, size)
    except OSError as error:
        raise unreadable(source.path, error) from error


def read(piece: Piece, reading: Reading) -> Items:
    """Read the documents of a piece, in order. An empty text is a document; a blank line is not.

    Returns:
        The number of lines (blank ones included), rows or documents in the piece, from which the next piece's can
        be numbered. The generator returns it at the end: `lines = yield from read(…)`.

    Raises:
        UserError: The source cannot be read.
    """
    try:
        return (yield from _reader(piece)(piece, reading))
    except OSError as error:
        raise unreadable(piece.path, error) from error


def _cutter(source: Source, size: int, encoding: str | None) -> Callable[[Source, int], list[Piece]]:
    """Return the function that cuts a source. A file that fits into one piece is not opened."""
    match source.format:
        case "datasets" if source.path.startswith(HUB_PREFIX):
            from gpt2dist.corpus.readers.hub import cut_hub

            return cut_hub
        case "datasets":
            from gpt2dist.corpus.readers.saved_datasets import cut_saved

            return cut_saved
        case "parquet" if source.size > size:
            from gpt2dist.corpus.readers.parquet import cut_parquet

            return cut_parquet
        case "arrow" if source.size > size:
            from gpt2dist.corpus.readers.parquet import cut_arrow

            return cut_arrow
        case "jsonl" if not source.compression and (encoding is None or can_cut_at_line_feeds(encoding)):
            return _cut_bytes
    return _one_piece


def _one_piece(source: Source, size: int) -> list[Piece]:
    return _cut_bytes(source, max(source.size, 1))


def _cut_bytes(source: Source, step: int) -> list[Piece]:
    bounds = [(start, min(start + step, source.size)) for start in range(0, source.size, step)]
    kind = (source.location, source.format, source.compression)
    return [Piece(*kind, start, end, end - start) for start, end in bounds]


def _reader(piece: Piece) -> Callable[[Piece, Reading], Items]:
    """Return the function that reads a piece. Imports are lazy, since pyarrow and datasets are slow to import."""
    match piece.format:
        case "jsonl":
            from gpt2dist.corpus.readers.jsonl import read_jsonl

            return read_jsonl
        case "csv" | "tsv":
            from gpt2dist.corpus.readers.csv import read_delimited

            return read_delimited
        case "parquet":
            from gpt2dist.corpus.readers.parquet import read_parquet

            return read_parquet
        case "arrow":
            from gpt2dist.corpus.readers.parquet import read_arrow

            return read_arrow
        case "datasets" if piece.path.startswith(HUB_PREFIX):
            from gpt2dist.corpus.readers.hub import read_hub

            return read_hub
        case "datasets":
            from gpt2dist.corpus.readers.saved_datasets import read_saved

            return read_saved
    from gpt2dist.corpus.readers.text import read_text

    return read_text
