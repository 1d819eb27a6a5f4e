"""Text files: each is a document, or many with a separator between them."""

from itertools import chain

from gpt2dist.corpus.documents import Document, Items, LongDocument, Piece, Reading, Rejected
from gpt2dist.corpus.files import Stream
from gpt2dist.corpus.readers.records import FileRecords
from gpt2dist.corpus.utf8 import repair, repair_parts

_HEAD_BYTES = 8192
"""Where a zero byte tells binary files, as in git; UTF-16 and UTF-32 have zero bytes too."""
_BINARY = "binary, or text in another encoding than UTF-8 (it has zero bytes)"


def read_text(piece: Piece, reading: Reading) -> Items:
    """Reads the documents of a file; a file that ends with a separator has no empty document behind it."""
    separator = reading.document_separator.encode() if reading.document_separator else None
    with Stream(piece.path, piece.compression) as stream:
        records = FileRecords(stream, separator)
        for record in records:
            head = record if isinstance(record, bytes) else next(record)
            if b"\0" in head[:_HEAD_BYTES]:
                yield Rejected(records.count, records.offset, records.take(), _BINARY)
            elif isinstance(record, bytes):
                text, repaired = repair(record)
                yield Document(text, records.count, records.offset, records.take(), repaired)
            else:
                parts = repair_parts(chain([head], record))
                yield LongDocument(records.count, records.offset, parts, records.take)
        return records.count
