"""Reader of text files: each is one document, or several with a separator between them."""

from itertools import chain

from gpt2dist.corpus.documents import Document, Items, LongDocument, Piece, Reading, Rejected
from gpt2dist.corpus.readers.base import Reader
from gpt2dist.corpus.readers.records import FileRecords
from gpt2dist.corpus.text_stream import TextStream
from gpt2dist.corpus.utf8 import repair, repair_parts

_HEAD_BYTES = 8192
"""Bytes to search for a zero byte, which marks binary files as in git. UTF-16 and UTF-32 have them too."""
_BINARY = "binary, or text in another encoding (it has zero bytes); name the encoding with --encoding"


class TextReader(Reader):
    """Reader of plain text, which also reads files with suffixes that no reader has."""

    suffixes = (".txt", ".md", ".rst")
    compressible = has_encodings = separable = True

    def read(self, piece: Piece, reading: Reading) -> Items:
        """Read the documents of a file. No empty document follows a separator at the end of the file."""
        return _read(piece, reading)


def _read(piece: Piece, reading: Reading) -> Items:
    separator = reading.document_separator.encode() if reading.document_separator else None
    with TextStream(piece, reading.encoding) as stream:
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
