"""Reader of JSON lines: each line is a JSON object with the text of a document at some key."""

import json
import sys
from collections.abc import Generator

import orjson

from gpt2dist.corpus.documents import BadDocumentError, Document, Items, LongDocument, Piece, Reading, Rejected
from gpt2dist.corpus.encodings import decode_utf8
from gpt2dist.corpus.readers.fields import find_text, mend, no_object
from gpt2dist.corpus.readers.long_lines import text_parts
from gpt2dist.corpus.readers.records import FileRecords
from gpt2dist.corpus.text_stream import TextStream


def read_jsonl(piece: Piece, reading: Reading) -> Items:
    """Read the lines that start in the piece. Blank lines are not documents."""
    with TextStream(piece, reading.encoding) as stream:
        whole = stream.transcoded or piece.compression  # then the stream has the lines of this piece only
        start, end = (0, sys.maxsize) if whole else (piece.start, piece.end)
        records = FileRecords(stream, b"\n", start, end)
        for line in records:
            if not isinstance(line, bytes):
                parts = text_parts(line, reading.text_field)
                yield LongDocument(records.count, records.offset, parts, records.take)
            elif line and not line.isspace():
                try:
                    text, repaired = parse(line, reading.text_field)
                    yield Document(text, records.count, records.offset, records.take(), repaired)
                except BadDocumentError as error:
                    yield Rejected(records.count, records.offset, records.take(), str(error))
        return records.count


def parse(line: bytes, text_field: str) -> tuple[bytes, int]:
    """Return the text of a line as UTF-8, and the number of characters in it that were replaced by U+FFFD.

    Raises:
        BadDocumentError: The line is not a JSON object, or has no string at that field.
    """
    try:
        return find_text(orjson.loads(line), text_field).encode(), 0
    except orjson.JSONDecodeError:
        # It rejects escaped lone surrogates (\ud800), which are legal, and invalid UTF-8, which is repaired.
        decoded = decode_utf8(line)
    if decoded.lstrip().startswith("["):
        raise BadDocumentError(no_object("list"))
    try:
        content = json.loads(decoded)
    except json.JSONDecodeError as error:
        raise BadDocumentError(f"not JSON: {error}") from None
    except (ValueError, RecursionError):  # a limit on digits or nesting; it depends on the version of Python
        return _join(text_parts(iter([line]), text_field))
    return mend(find_text(content, text_field))


def _join(parts: Generator[bytes, None, int]) -> tuple[bytes, int]:
    texts = []
    while True:
        try:
            texts.append(next(parts))
        except StopIteration as end:
            return b"".join(texts), end.value
