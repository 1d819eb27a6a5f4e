"""Cuts sources into pieces and reads those, whatever their format."""

from collections.abc import Callable

from gpt2dist.corpus.documents import Items, Piece, Reading, Source
from gpt2dist.corpus.formats import HUB_PREFIX
from gpt2dist.corpus.storage import unreadable


def cut(source: Source, size: int) -> list[Piece]:
    """Cuts a source into pieces of about `size` bytes where its format can be cut, else into one.

    The pieces depend on `size` and the source alone. An empty source has none.

    Raises:
        UserError: The source cannot be read.
    """
    try:
        return _cutter(source, size)(source, size)
    except OSError as error:
        raise unreadable(source.path, error) from error


def read(piece: Piece, reading: Reading) -> Items:
    """Reads the documents of a piece, in order; an empty text is a document too, a blank line is none.

    Returns:
        (When it has ended: `lines = yield from read(…)`.) The lines, rows or documents that the piece has, blank
        lines included, so that those of the next piece can be numbered from there.

    Raises:
        UserError: The source cannot be read.
    """
    try:
        return (yield from _reader(piece)(piece, reading))
    except OSError as error:
        raise unreadable(piece.path, error) from error


def _cutter(source: Source, size: int) -> Callable[[Source, int], list[Piece]]:
    """What cuts a source; a file that is one piece anyhow is not looked into."""
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
    return _cut_bytes


def _cut_bytes(source: Source, size: int) -> list[Piece]:
    step = size if source.format == "jsonl" and not source.compression else max(source.size, 1)
    bounds = [(start, min(start + step, source.size)) for start in range(0, source.size, step)]
    kind = (source.location, source.format, source.compression)
    return [Piece(*kind, start, end, end - start) for start, end in bounds]


def _reader(piece: Piece) -> Callable[[Piece, Reading], Items]:
    """What reads a piece; imported only where it is needed, since pyarrow and datasets take their time."""
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
