"""The base class of corpus readers. CONTRIBUTING.md describes how to add a reader."""

from gpt2dist.corpus.documents import Items, Piece, Reading, Source
from gpt2dist.errors import UserError


class Reader:
    """Reader of one format.

    The readers of all installed packages are loaded to detect formats from file names, so the module of a reader
    must import fast: import slow libraries within the methods.
    """

    suffixes: tuple[str, ...] = ()
    """Suffixes of its files, in lower case and with the dot. With none, only `--format` selects the reader."""
    compressible: bool = False
    """Whether a file may be compressed as a whole (.gz .zst .xz .bz2), which `corpus.files.Stream` decompresses.
    False for formats with internal compression, and for readers whose own suffixes are like ".xyz.gz"."""
    has_encodings: bool = False
    """Whether `Reading.encoding` applies. False if the format or each file determines the encoding."""
    never_empty: bool = False
    """Whether a file of zero bytes is damaged, since the format has at least a header."""
    separable: bool = False
    """Whether `Reading.document_separator` applies."""

    def check(self, path: str, compression: str, encoding: str | None) -> None:
        """Check a local file during discovery, if its name alone does not show that it is part of a corpus.

        Args:
            path: Absolute path of a file that is not empty.
            compression: "", "gz", "zst", "xz" or "bz2".
            encoding: See `Reading`.

        Raises:
            NotDocumentsError: It holds no documents, such as metadata. A search of a directory ignores the file.
            UserError: It is not of this format.
        """

    def cut(self, source: Source, size: int, encoding: str | None) -> list[Piece]:
        """Cut a source into pieces of about `size` bytes that can be read independently.

        The pieces must depend on the arguments and the content alone. Their sizes must add up to `source.size`.
        A source without documents may have no pieces. By default a source is one piece.

        Raises:
            UserError: The source cannot be read, or a library is missing.
        """
        return cut_bytes(source, max(source.size, 1))

    def read(self, piece: Piece, reading: Reading) -> Items:
        """Yield the documents of a piece in order, and return the number of its lines, rows or records.

        Yield a `Document`; a `LongDocument` instead of a document above `LONG_BYTES`; `Rejected` for a document
        that cannot be read, which counts against --max-bad-fraction; and `Skipped` for a record that is not text.
        `readers.cells.document` makes the first two from bytes. Hold no more than one document in memory.

        Raises:
            UserError: The file is damaged or not of this format. Files that cannot be opened may raise OSError.
        """
        raise NotImplementedError


class NotDocumentsError(UserError):
    """Raised when a file holds no documents; the message is for users who named it.

    Attributes:
        kind: Kind of file, for the list of ignored files.
    """

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


def cut_bytes(source: Source, step: int) -> list[Piece]:
    """Cut a source every `step` bytes. An empty source has no pieces."""
    bounds = [(start, min(start + step, source.size)) for start in range(0, source.size, step)]
    kind = (source.location, source.format, source.compression)
    return [Piece(*kind, start, end, end - start) for start, end in bounds]
