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
    Skipped,
    Source,
)
from gpt2dist.corpus.formats import READERS, file_formats
from gpt2dist.corpus.identity import common_directory, content_sha256, dated, relative_name, with_versions
from gpt2dist.corpus.listing import Listing, list_corpus
from gpt2dist.corpus.readers.base import Reader
from gpt2dist.corpus.reading import cut, read
from gpt2dist.corpus.sources import discover
from gpt2dist.corpus.standard_input import spool

__all__ = [
    "LONG_BYTES",
    "READERS",
    "BadDocumentError",
    "Document",
    "Item",
    "Items",
    "Listing",
    "LongDocument",
    "Piece",
    "Reader",
    "Reading",
    "Rejected",
    "Skipped",
    "Source",
    "common_directory",
    "content_sha256",
    "cut",
    "dated",
    "discover",
    "file_formats",
    "list_corpus",
    "read",
    "relative_name",
    "spool",
    "with_versions",
]
