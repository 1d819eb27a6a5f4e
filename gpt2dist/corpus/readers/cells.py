"""Documents from texts that a library returns whole, such as table cells."""

from collections.abc import Iterator
from functools import partial

from gpt2dist.corpus import documents, files
from gpt2dist.corpus.documents import Document, LongDocument
from gpt2dist.corpus.utf8 import repair, repair_parts


def document(text: bytes | memoryview, line: int, size: int, offset: int = -1) -> Document | LongDocument:
    """Build the document of a text, whose bytes may be invalid UTF-8. See `Document` for the other arguments."""
    if len(text) > documents.LONG_BYTES:
        return LongDocument(line, offset, repair_parts(_chunks(text)), partial(int, size))
    whole, repaired = repair(bytes(text))
    return Document(whole, line, offset, size, repaired)


def spread(size: int, count: int) -> Iterator[int]:
    """Split `size` into `count` integers that are equal except for rounding."""
    return (size * (number + 1) // count - size * number // count for number in range(count))


def _chunks(text: bytes | memoryview) -> Iterator[bytes]:
    step = files.BLOCK_BYTES
    return (bytes(text[start : start + step]) for start in range(0, len(text), step))
