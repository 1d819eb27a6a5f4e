"""Reader for the text of a stored file as UTF-8, whatever its encoding."""

from collections.abc import Iterator

from gpt2dist.corpus.documents import Piece
from gpt2dist.corpus.encodings import (
    MARK_BYTES,
    Transcoder,
    can_cut_at_line_feeds,
    is_plainly_utf8,
    marked_encoding,
)
from gpt2dist.corpus.files import Stream
from gpt2dist.corpus.storage import first_bytes
from gpt2dist.errors import UserError


class TextStream(Stream):
    """Sequential reader of a piece's text as UTF-8, as a context manager. Invalid sequences become the byte 0xFF.

    UTF-8 is passed through unchanged, from byte start − 1 of the piece to the end of the file. For a file in
    another encoding, `read` returns only the lines that start in the piece. If such a file was cut although its
    byte-order mark rules that out, the first piece has the whole file and the others have no lines.

    Args:
        piece: A piece of a plain file.
        encoding: Canonical name of the encoding; None for UTF-8. A byte-order mark in the file wins.

    Raises:
        UserError: The file cannot be opened, or is UTF-8 and `encoding` names another encoding.
    """

    def __init__(self, piece: Piece, encoding: str | None = None):
        super().__init__(piece.path, piece.compression, max(piece.start - 1, 0))
        self._piece = piece
        self._head = b"" if piece.start else self._first_block()
        head = first_bytes(piece.path, MARK_BYTES) if piece.start else self._head
        marked = marked_encoding(head)
        if encoding and not marked and is_plainly_utf8(head):
            self._stored.close()
            raise UserError(
                f"{piece.path}: is UTF-8, which --encoding {encoding} would misread; omit the option, or read "
                "this file separately"
            )
        encoding = marked or encoding
        self.transcoded = encoding not in (None, "utf-8")
        self._from, self._to = 0, 0  # bytes of the file read so far, and bytes of UTF-8 made of them
        if self.transcoded:
            assert encoding is not None
            self._blocks = self._transcode(encoding)

    def read(self) -> bytes:
        """Read the next block; return b"" at the end. See `Stream.read`."""
        return next(self._blocks, b"") if self.transcoded else self._read_bytes()

    def stored(self, offset: int) -> int:
        """Estimate the stored size of the first `offset` bytes; exact for all that was read."""
        if self.transcoded:
            offset = offset * self._from // max(self._to, 1)
        return super().stored(offset)

    def _first_block(self) -> bytes:
        """Read enough bytes to find a byte-order mark. One read may return fewer."""
        head = b""
        while len(head) < MARK_BYTES and (block := super().read()):
            head += block
        return head

    def _read_bytes(self) -> bytes:
        block, self._head = self._head, b""
        return block or super().read()

    def _transcode(self, encoding: str) -> Iterator[bytes]:
        transcoder = Transcoder(encoding)
        for block in self._lines(encoding):
            self._from += len(block)
            text = transcoder.feed(block)
            self._to += len(text)
            if text:
                yield text
        rest = transcoder.feed(b"", final=True)
        self._to += len(rest)
        if rest:
            yield rest

    def _lines(self, encoding: str) -> Iterator[bytes]:
        """Yield the bytes of the lines that start in the piece, in blocks."""
        blocks = iter(self._read_bytes, b"")
        if self._piece.compression or not can_cut_at_line_feeds(encoding):
            if self._piece.start == 0:
                yield from blocks
            return
        end = self._piece.end
        at, within = max(self._piece.start - 1, 0), self._piece.start == 0
        for block in blocks:
            first = 0 if within else block.find(b"\n", 0, end - 1 - at) + 1
            within = within or first > 0
            last = block.find(b"\n", max(end - 1 - at, 0)) + 1 if at + len(block) >= end else 0
            if within:
                yield block[first : last or None]
            at += len(block)
            if (within and last) or (not within and at >= end - 1):
                return  # a line that covers the whole piece belongs to an earlier one
