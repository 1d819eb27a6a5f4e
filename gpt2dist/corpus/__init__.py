"""The corpus: discovery of its sources, and readers that yield their documents one at a time."""

from gpt2dist.corpus.documents import (
    LONG_BYTES,
    BadDocumentError,
    Document,
    Item,
    Items,
    LongDocument,
    Piece,
    Reading,
    Rejected,
    Source,
)
from gpt2dist.corpus.formats import DEFAULT_SUFFIXES, FORMATS
from gpt2dist.corpus.identity import content_sha256, dated, relative_names, with_versions
from gpt2dist.corpus.reading import cut, read
from gpt2dist.corpus.sources import discover
from gpt2dist.corpus.standard_input import spool

__all__ = [
    "DEFAULT_SUFFIXES",
    "FORMATS",
    "LONG_BYTES",
    "BadDocumentError",
    "Document",
    "Item",
    "Items",
    "LongDocument",
    "Piece",
    "Reading",
    "Rejected",
    "Source",
    "content_sha256",
    "cut",
    "dated",
    "discover",
    "read",
    "relative_names",
    "spool",
    "with_versions",
]
