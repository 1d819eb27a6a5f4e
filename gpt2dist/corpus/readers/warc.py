"""Reader of web archives: WARC files, and WET files with the text of web pages, as Common Crawl publishes them.

Documents are the records whose payload is plain text: those of the type `conversion` (WET) or `resource`, and the
body of each successful HTTP `response`. Text is not extracted from HTML: such records are skipped and counted by
their kind. The library warcio parses headers and chunked transfers. Framing and compression are checked here,
since warcio treats the end of a damaged file as the end of the archive.
"""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

from gpt2dist.corpus import documents, files
from gpt2dist.corpus.decompression import DamagedStreamError, decompressed
from gpt2dist.corpus.documents import (
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
from gpt2dist.corpus.encodings import Transcoder, canonical_name, marked_encoding
from gpt2dist.corpus.files import Stream
from gpt2dist.corpus.readers.base import Reader
from gpt2dist.corpus.storage import damaged
from gpt2dist.corpus.utf8 import repair, repair_parts
from gpt2dist.errors import UserError

HEADER_BYTES = 1 << 20
"""Maximum size of the header of a record, and of an HTTP response."""
_BINARY_HEAD = 8192
"""Bytes of a text to search for a zero byte, as `readers.text` does."""
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,40}/[\w.+-]{1,60}")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';]+)", re.IGNORECASE)


class WarcReader(Reader):
    """Reader of WARC and WET files. A file is one piece."""

    suffixes = (".warc", ".wet")
    compressible = never_empty = True

    def cut(self, source: Source, size: int, encoding: str | None) -> list[Piece]:
        """See `Reader.cut`."""
        _require_warcio(source.path)
        return super().cut(source, size, encoding)

    def read(self, piece: Piece, reading: Reading) -> Items:
        """Read the records of a file. The line of a document is the number of its record."""
        with Stream(piece.path, piece.compression) as stream:
            archive = _Archive(stream, piece.path)
            while record := archive.next_record():
                yield from archive.items(record)
            return archive.count


class _Record:
    """A record whose header has been read.

    Attributes:
        type: Value of its field WARC-Type, such as "response".
        kind: Kind of content if it is not plain text, such as "text/html"; "" if it is.
        text: Its payload in UTF-8, with the byte 0xFF for invalid sequences, in chunks. Raises
            `DamagedStreamError` if it cannot be decompressed.
    """

    def __init__(self, headers: Any, body: Any):
        self.type = (headers.get_header("WARC-Type") or "").strip().lower()
        self.text: Iterator[bytes] = iter(())
        content_type = headers.get_header("Content-Type") or ""
        http = None
        if self.type == "response" and content_type.lower().startswith("application/http"):
            http = _http_headers(body)
            content_type = (http.get_header("Content-Type") or "") if http else ""
        self.kind = self._unwanted(http, content_type)
        if not self.kind:
            self._decode(_payload(body, http), content_type)

    def _unwanted(self, http: Any, content_type: str) -> str:
        if self.type not in ("conversion", "resource", "response"):
            return self.type if re.fullmatch(r"\w{1,40}", self.type) else "unknown record type"
        if http is not None and not 200 <= _status(http) <= 299:
            return f"HTTP status {_status(http)}"
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type != "text/plain":
            return media_type if _MEDIA_TYPE.fullmatch(media_type) else "unknown content type"
        encoding = _content_encoding(http)
        if encoding not in ("", "gzip"):
            return "text/plain in an unknown content encoding" if encoding != "br" else "text/plain in brotli"
        return ""

    def _decode(self, chunks: Iterator[bytes], content_type: str) -> None:
        try:
            head = next(chunks, b"")
        except DamagedStreamError as error:
            self.text = _raising(error)
            return
        named = _CHARSET.search(content_type)
        encoding = marked_encoding(head)
        if encoding is None and named:
            try:
                encoding = canonical_name(named[1])
            except UserError:
                self.kind = "text/plain in an unknown charset"
                return
        data: Iterator[bytes] = chain([head], chunks)
        if encoding is not None and encoding != "utf-8":
            data = _transcoded(data, encoding)
        elif b"\0" in head[:_BINARY_HEAD]:
            self.kind = "text/plain with zero bytes"
            return
        self.text = _without_mark(data)


class _Archive:
    """The records of an archive in order.

    Attributes:
        count: Number of records whose header has been read.
    """

    def __init__(self, stream: Stream, path: str):
        self.count = 0
        self._stream, self._path = stream, path
        self._bytes = _Bytes(stream)
        self._offset = 0
        self._body: Any = None
        self._accounted = 0

    def next_record(self) -> _Record | None:
        """Read up to the payload of the next record; return None at the end of the file.

        Raises:
            UserError: The file is damaged.
        """
        if self._body is not None:
            self._skip_body()
        line = self._first_line()
        if not line:
            return None
        self.count += 1
        headers = self._headers(line)
        length = headers.get_header("Content-Length") or ""
        if not re.fullmatch(r"[0-9]{1,18}", length.strip()):
            raise self._damaged(f"has no valid Content-Length but {length!r:.60}")
        self._body = _limited(self._bytes, int(length))
        return _Record(headers, self._body)

    def items(self, record: _Record) -> Iterator[Item]:
        """Yield the document of a record, or why it is skipped or rejected."""
        place = (self.count, self._offset)
        if record.kind:
            if record.type != "warcinfo":  # describes the file
                yield Skipped(*place, self._take(), record.kind)
            return
        held: list[bytes] = []
        size = 0
        try:
            for chunk in record.text:
                held.append(chunk)
                size += len(chunk)
                if size > documents.LONG_BYTES:
                    parts = repair_parts(_checked(chain(held, record.text)))
                    yield LongDocument(*place, parts, self._take)
                    return
        except DamagedStreamError as error:
            yield Rejected(*place, self._take(), _undecodable(error))
            return
        text, repaired = repair(b"".join(held))
        yield Document(text, *place, self._take(), repaired)

    def _first_line(self) -> bytes:
        """Return the first line of the next record; b"" at the end of the file. Two line ends follow a record."""
        line = b"\n"
        while line and not line.strip(b"\r\n"):
            self._offset = self._bytes.position
            line = self._bytes.readline(HEADER_BYTES)
        return line

    def _headers(self, line: bytes) -> Any:
        from warcio.recordloader import ArcWarcRecordLoader
        from warcio.statusandheaders import StatusAndHeadersParser, StatusAndHeadersParserException

        head = _limited(self._bytes, HEADER_BYTES)
        try:
            headers = StatusAndHeadersParser(ArcWarcRecordLoader.WARC_TYPES).parse(head, line)
        except StatusAndHeadersParserException:
            raise self._damaged(f"does not begin with WARC/1.0 or WARC/1.1 but {line[:40]!r}") from None
        if not head.limit:
            raise self._damaged(f"has a header of more than {HEADER_BYTES:,} bytes")
        return headers

    def _skip_body(self) -> None:
        while self._body.limit:
            if not self._body.read(files.BLOCK_BYTES):
                raise self._damaged(f"lacks its last {self._body.limit:,} bytes, since the file ends")

    def _take(self) -> int:
        """Skip the rest of the record, and return the stored bytes read since the previous `_take`."""
        self._skip_body()
        before, self._accounted = self._accounted, max(self._accounted, self._stream.stored(self._bytes.position))
        return self._accounted - before

    def _damaged(self, what: str) -> UserError:
        error = ValueError(f"record {max(self.count, 1):,}, which starts at byte {self._offset:,}, {what}")
        return damaged(self._path, "WARC", error)


class _Bytes:
    """The decompressed bytes of a file, as warcio reads them.

    Attributes:
        position: Number of bytes read so far.
    """

    def __init__(self, stream: Stream):
        self.position = 0
        self._stream = stream
        self._block, self._at = b"", 0

    def read(self, size: int) -> bytes:
        """Read `size` bytes; fewer only at the end of the file."""
        return b"".join(self._parts(size))

    def readline(self, size: int) -> bytes:
        """Read up to the end of a line, but at most `size` bytes."""
        return b"".join(self._parts(size, b"\n"))

    def _parts(self, size: int, end: bytes = b"") -> Iterator[bytes]:
        while size > 0:
            if self._at == len(self._block):
                self._block, self._at = self._stream.read(), 0
            found = self._block.find(end, self._at, self._at + size) if end else -1
            part = self._block[self._at : self._at + size if found < 0 else found + len(end)]
            self._at += len(part)
            self.position += len(part)
            size -= len(part)
            yield part
            if found >= 0 or not part:
                return


def _require_warcio(path: str) -> None:
    try:
        import warcio  # noqa: F401
    except ImportError:
        raise UserError(f"{path}: needs warcio; install it with pip install 'gpt2dist[warc]'") from None


def _limited(stream: Any, size: int) -> Any:
    from warcio.limitreader import LimitReader

    return LimitReader(stream, size)


def _http_headers(body: Any) -> Any:
    """Return the status and headers of an HTTP response; None if it is empty or too long."""
    from warcio.recordloader import ArcWarcRecordLoader
    from warcio.statusandheaders import StatusAndHeadersParser

    head = _limited(body, HEADER_BYTES)
    try:
        headers = StatusAndHeadersParser(ArcWarcRecordLoader.HTTP_TYPES, verify=False).parse(head)
    except EOFError:
        return None
    return headers if head.limit else None


def _status(http: Any) -> int:
    code = http.get_statuscode()
    return int(code) if re.fullmatch(r"[0-9]{3}", code) else 0


def _content_encoding(http: Any) -> str:
    found = (http.get_header("Content-Encoding") or "").strip().lower() if http else ""
    return {"identity": "", "x-gzip": "gzip"}.get(found, found)


def _payload(body: Any, http: Any) -> Iterator[bytes]:
    """Yield the payload of a record, without chunked transfer and compression, in chunks."""
    if http and (http.get_header("Transfer-Encoding") or "").strip().lower() == "chunked":
        from warcio.bufferedreaders import ChunkedDataReader

        body = ChunkedDataReader(body)  # also accepts a body without chunks
    if _content_encoding(http) == "gzip":
        body = decompressed(body, "gz")
    return iter(partial(body.read, files.BLOCK_BYTES), b"")


def _transcoded(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    transcoder = Transcoder(encoding)
    for chunk in chunks:
        yield transcoder.feed(chunk)
    yield transcoder.feed(b"", final=True)


def _without_mark(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Remove a byte-order mark, which is in the first chunk."""
    yield next(chunks, b"").removeprefix(documents.UTF8_MARK)
    yield from chunks


def _raising(error: DamagedStreamError) -> Iterator[bytes]:
    raise error
    yield  # makes this a generator


def _checked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    try:
        yield from chunks
    except DamagedStreamError as error:
        raise BadDocumentError(_undecodable(error)) from None


def _undecodable(error: Exception) -> str:
    return f"its gzip content encoding is damaged ({error})"
