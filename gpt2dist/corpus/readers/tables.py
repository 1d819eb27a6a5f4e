"""Readers of parquet and Arrow files; they import pyarrow when they are used."""

from gpt2dist.corpus.documents import Items, Piece, Reading, Source
from gpt2dist.corpus.readers.base import Reader


class ParquetReader(Reader):
    """Reader of parquet files: a document is the cell of a row. Files are cut between row groups."""

    suffixes = (".parquet",)
    never_empty = True

    def cut(self, source: Source, size: int, encoding: str | None) -> list[Piece]:
        """See `Reader.cut`. A file that fits into one piece is not opened."""
        if source.size <= size:
            return super().cut(source, size, encoding)
        from gpt2dist.corpus.readers.parquet import cut_parquet

        return cut_parquet(source, size)

    def read(self, piece: Piece, reading: Reading) -> Items:
        """Read the rows of some row groups."""
        from gpt2dist.corpus.readers.parquet import read_parquet

        return read_parquet(piece, reading)


class ArrowReader(Reader):
    """Reader of Arrow files and streams: a document is the cell of a row. Files are cut between batches."""

    suffixes = (".arrow",)
    never_empty = True

    def cut(self, source: Source, size: int, encoding: str | None) -> list[Piece]:
        """See `Reader.cut`. A file that fits into one piece is not opened."""
        if source.size <= size:
            return super().cut(source, size, encoding)
        from gpt2dist.corpus.readers.parquet import cut_arrow

        return cut_arrow(source, size)

    def read(self, piece: Piece, reading: Reading) -> Items:
        """Read the rows of some record batches of a file, or of a whole stream."""
        from gpt2dist.corpus.readers.parquet import read_arrow

        return read_arrow(piece, reading)
