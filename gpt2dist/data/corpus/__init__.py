"""The corpus: which sources it has, and the documents in them, one at a time."""

from gpt2dist.data.corpus.discovery import discover
from gpt2dist.data.corpus.naming import DEFAULT_SUFFIXES, FORMATS
from gpt2dist.data.corpus.reading import cut, read
from gpt2dist.data.corpus.spooling import spool
from gpt2dist.data.corpus.types import (
    LONG_BYTES,
    BadDocument,
    Document,
    Item,
    Items,
    LongDocument,
    Piece,
    Reading,
    Rejected,
    Source,
)

__all__ = [
    "DEFAULT_SUFFIXES",
    "FORMATS",
    "LONG_BYTES",
    "BadDocument",
    "Document",
    "Item",
    "Items",
    "LongDocument",
    "Piece",
    "Reading",
    "Rejected",
    "Source",
    "cut",
    "discover",
    "read",
    "spool",
]
