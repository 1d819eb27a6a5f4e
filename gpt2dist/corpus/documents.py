"""What the corpus is made of: sources, the pieces they are cut into, and the documents in those."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from gpt2dist.errors import Gpt2distError

LONG_BYTES = 8 << 20
"""A document whose source is longer is a `LongDocument`, which nobody holds whole."""

UTF8_MARK = b"\xef\xbb\xbf"
"""What some programs put before UTF-8; no part of the text."""


@dataclass(frozen=True)
class Source:
    """A file of the corpus, or what else documents come from."""

    path: str
    """Absolute path, URL, "-" for standard input, or "datasets:…"."""
    format: str
    """ "text", "jsonl", "csv", "tsv", "parquet", "arrow" or "datasets"."""
    compression: str
    """ "", "gz", "zst", "xz" or "bz2"."""
    size: int
    """Bytes as stored; 0 where nobody says."""
    version: str
    """Another one when the content is another."""
    spool: str = ""
    """The file that standard input was written to; "" for all others."""

    @property
    def location(self) -> str:
        """What is opened to read it."""
        return self.spool or self.path


@dataclass(frozen=True)
class Piece:
    """A part of a source that is read on its own."""

    path: str
    format: str
    compression: str
    start: int
    end: int
    """[start, end): of plain text and jsonl bytes, of parquet row groups, of an Arrow file record batches, of a
    saved dataset rows, of a dataset on the hub shards. What is not cut is [0, bytes)."""
    size: int
    """Its share of the source's bytes: the pieces of a source add up to `Source.size`."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text of the corpus."""

    text: bytes
    """UTF-8."""
    line: int
    """1-based, within the piece: line (jsonl), row (csv, parquet, Arrow, datasets) or document (text)."""
    offset: int
    """Byte of the decompressed file where its line, row or text begins; -1 where the format has none."""
    size: int
    """Bytes of the source that it accounts for; over a piece they add up to about `Piece.size`."""
    repaired: bool = False
    """Whether broken UTF-8 or lone surrogates in it were replaced by U+FFFD."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that cannot be read; the fields are those of `Document`."""

    line: int
    offset: int
    size: int
    reason: str


class BadDocumentError(Gpt2distError):
    """A long document turned out, while its parts were read, to be unreadable; the message says why."""


class LongDocument:
    """A text of the corpus whose source is longer than `LONG_BYTES`, read in parts.

    Attributes:
        line: As of `Document`.
        offset: As of `Document`.
        parts: UTF-8 in pieces of a few MiB at most, in order, each valid by itself; to be consumed before the
            next document is asked for, which skips them. Raises `BadDocumentError` when the text, or what follows
            it in its line, cannot be read: then the parts given so far are to be dropped.
        size: As of `Document`; set when the parts have ended, also by `BadDocumentError`.
        repaired: As of `Document`; set when the parts have ended.
    """

    def __init__(
        self, line: int, offset: int, parts: Generator[bytes, None, bool], finish: Callable[[], int]
    ) -> None:
        """`parts` returns `repaired`; `finish` skips what is left of the document's source, returns its size."""
        self.line, self.offset = line, offset
        self.size, self.repaired = 0, False
        self.parts: Iterator[bytes] = self._watch(parts, finish)

    def _watch(self, parts: Generator[bytes, None, bool], finish: Callable[[], int]) -> Iterator[bytes]:
        try:
            self.repaired = yield from parts
        except BadDocumentError:
            self.size = finish()
            raise
        self.size = finish()


Item = Document | LongDocument | Rejected
Items = Generator[Item, None, int]
"""The documents of a piece, in order; returns how many lines, rows or documents it has, blank lines included."""


@dataclass(frozen=True)
class Reading:
    """How documents are read."""

    text_field: str = "text"
    """Key or column of the text; dots lead into nested objects and struct columns ("meta.text")."""
    document_separator: str | None = None
    """What stands between the documents of a text file, dropped; None: the file is one document."""
