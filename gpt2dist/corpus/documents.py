"""Types of the corpus: sources, the pieces that they are cut into, and the documents in a piece."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

from gpt2dist.errors import Gpt2distError

T = TypeVar("T")

LONG_BYTES = 8 << 20
"""Limit above which a document becomes a `LongDocument`, which is never held in memory as a whole."""

PART_BYTES = 1 << 20
"""Minimum size of the parts of a `LongDocument`, except for the last."""

UTF8_MARK = b"\xef\xbb\xbf"
"""Byte-order mark that some programs write before UTF-8; it is not part of the text."""


@dataclass(frozen=True)
class Source:
    """A file of the corpus, standard input, or a dataset."""

    path: str
    """Absolute path, URL, "-" for standard input, or "datasets:…"."""
    format: str
    """Name of its reader in `formats.READERS`, such as "jsonl", or `package.module:attribute`."""
    compression: str
    """ "", "gz", "zst", "xz" or "bz2"."""
    size: int
    """Stored (compressed) bytes; 0 if unknown."""
    version: str
    """Hash of the content, or the server's ETag or modification time; "" if unknown. See `identity`."""
    spool: str = ""
    """The file that holds the copy of standard input; "" for all other sources."""

    @property
    def location(self) -> str:
        """The path or URL to open."""
        return self.spool or self.path


@dataclass(frozen=True)
class Piece:
    """A part of a source that can be read by itself."""

    path: str
    format: str
    compression: str
    start: int
    end: int
    """The piece is [start, end) in units of its format: bytes (jsonl), row groups (parquet), record batches
    (Arrow), rows (saved datasets), shards (datasets on the hub), or what another reader's `cut` chooses. A source
    that is not cut is [0, bytes)."""
    size: int
    """Its share of the source's bytes; the sizes of all pieces of a source add up to `Source.size`."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document of the corpus."""

    text: bytes
    """Valid UTF-8."""
    line: int
    """Line (jsonl; csv: the first line of its row), row (parquet, Arrow, datasets), record (WARC) or document
    (text) in the piece, 1-based."""
    offset: int
    """First byte of its line, row, record or text in the decompressed file; -1 if the format has no byte
    offsets."""
    size: int
    """Stored bytes attributed to the document; over a piece they add up to about `Piece.size`."""
    repaired: int = 0
    """Number of U+FFFD in the text that replace invalid bytes or lone surrogates."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that cannot be read. Its position and size have the same meaning as in `Document`."""

    line: int
    offset: int
    size: int
    reason: str
    lines: int = 1
    """Lines that it spans. An open quote can hide the documents of all lines but the first."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that holds no text, such as a web page in HTML. It is counted, but not as a document.

    Its position and size have the same meaning as in `Document`.
    """

    line: int
    offset: int
    size: int
    kind: str
    """Kind of record, such as "text/html". Use few kinds: each is counted."""


class BadDocumentError(Gpt2distError):
    """Raised when a document is found to be unreadable; the message gives the reason.

    Attributes:
        lines: See `Rejected`.
    """

    def __init__(self, reason: str, lines: int = 1):
        super().__init__(reason)
        self.lines = lines


class LongDocument:
    """A document longer than `LONG_BYTES`, which is read in parts.

    Attributes:
        line: See `Document`.
        offset: See `Document`.
        parts: The text in order, in parts of 1 MiB to a few MiB (the last may be shorter), each of them valid
            UTF-8. Consume them before requesting the next document, which skips the rest. Raises
            `BadDocumentError` if the text, or the rest of its line, cannot be read; discard the earlier parts in
            that case.
        size: See `Document`; set once `parts` is exhausted or has raised `BadDocumentError`.
        repaired: See `Document`; set once `parts` is exhausted.
    """

    def __init__(
        self, line: int, offset: int, parts: Generator[bytes, None, int], finish: Callable[[], int]
    ) -> None:
        """Wrap the parts of a document.

        Args:
            line: See `Document`.
            offset: See `Document`.
            parts: Generator of the text in parts of any size, which returns `repaired`.
            finish: Skips the rest of the document's source and returns `size`.
        """
        self.line, self.offset = line, offset
        self.size, self.repaired = 0, 0
        self.parts: Iterator[bytes] = self._watch(parts, finish)

    def _watch(self, parts: Generator[bytes, None, int], finish: Callable[[], int]) -> Iterator[bytes]:
        try:
            self.repaired = yield from join_parts(parts)
        except BadDocumentError:
            self.size = finish()
            raise
        self.size = finish()


def join_parts(parts: Generator[bytes, None, T]) -> Generator[bytes, None, T]:
    """Join parts, such as lines, to parts of at least `PART_BYTES`; return the value of their generator."""
    held: list[bytes] = []
    size = 0
    while True:
        try:
            part = next(parts)
        except StopIteration as end:
            returned: T = end.value
            break
        held.append(part)
        size += len(part)
        if size >= PART_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if size:
        yield b"".join(held)
    return returned


Item = Document | LongDocument | Rejected | Skipped
Items = Generator[Item, None, int]
"""Generator of a piece's documents, in order; it returns the number of lines (with blank ones), rows, records or
texts."""


@dataclass(frozen=True)
class Reading:
    """Options for reading documents."""

    text_field: str = "text"
    """Key or column of the text; dots refer to nested objects and struct columns ("meta.text")."""
    document_separator: str | None = None
    """Separator between the documents of a text file, removed from the text; None if a file is one document."""
    encoding: str | None = None
    """Encoding of plain files, by its canonical name; None for UTF-8. A byte-order mark in a file wins."""
    quoting: str = "standard"
    """Quotes in a table (csv, tsv): "standard" as in RFC 4180, "none" for ordinary characters."""
    max_field_lines: int = 100
    """Maximum lines of a quoted field; a longer one is taken for a stray quote and stops the reading."""
