"""Reader of JSON lines: each line is a JSON object with the text of a document at some key."""

import json
import sys
from collections.abc import Generator

import orjson

from gpt2dist.corpus.documents import (
    BadDocumentError,
    Document,
    Items,
    LongDocument,
    Piece,
    Reading,
    Rejected,
    Source,
)
from gpt2dist.corpus.encodings import can_cut_at_line_feeds, decode_utf8
from gpt2dist.corpus.json_values import is_one_object, object_over_lines
from gpt2dist.corpus.readers.base import NotDocumentsError, Reader, cut_bytes
from gpt2dist.corpus.readers.fields import find_text, mend, no_object
from gpt2dist.corpus.readers.long_lines import text_parts
from gpt2dist.corpus.readers.records import FileRecords
from gpt2dist.corpus.text_stream import TextStream


class JsonLinesReader(Reader):
    """Reader of JSON lines. Files are cut at line feeds unless they are compressed."""

    suffixes = (".jsonl", ".ndjson", ".json")
    compressible = has_encodings = True

    def check(self, path: str, compression: str, encoding: str | None) -> None:
        """Check that a file named .json has lines; see `Reader.check`."""
        if is_one_object(path, compression, encoding):
            raise NotDocumentsError(
                object_over_lines(path, compression), ".json of one object over several lines"
            )

    def cut(self, source: Source, size: int, encoding: str | None) -> list[Piece]:
        """See `Reader.cut`."""
        whole = source.compression or not (encoding is None or can_cut_at_line_feeds(encoding))
        return super().cut(source, size, encoding) if whole else cut_bytes(source, size)

    def read(self, piece: Piece, reading: Reading) -> Items:
        """Read the lines that start in the piece. Blank lines are not documents."""
        return _read(piece, reading)


def _read(piece: Piece, reading: Reading) -> Items:
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
