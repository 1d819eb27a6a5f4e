"""JSON lines too long to be held: the text is found and unescaped while the line goes by.

What is JSON and what is not is as in `jsonl.parse`, but for one thing: of a key that occurs twice that takes the
last value, which is known too late here, so that a line with the text's key twice is a bad document.
"""

import json
import re
from collections.abc import Generator, Iterator

import orjson

from gpt2dist.corpus.documents import BadDocumentError
from gpt2dist.corpus.readers.fields import mend, no_field, no_string
from gpt2dist.corpus.utf8 import complete, repair

MOST_DEPTH = 1024
"""As orjson."""
MOST_TOKEN = 1 << 20
"""Bytes of the longest key or number."""

_SPACE = re.compile(rb"[ \t\n\r]*+")
# Atomic inside: before Python 3.11.5 a possessive quantifier over a group that can backtrack may match too much
# (python/cpython#106052). Possessive outside: a greedy one keeps a state per escape, 700 MiB for 8 MiB of \n.
_RUN = re.compile(rb'(?:(?>[^"\\\x00-\x1f]+|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})))*+')
_WORD = re.compile(rb"[-+.0-9A-Za-z]*+")
_SCALAR = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null|NaN|-?Infinity")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_ESCAPE_BYTES = 6
_KINDS = {b"{": "dict", b"[": "list", b'"': "str", b"t": "bool", b"f": "bool", b"n": "NoneType"}


def text_parts(chunks: Iterator[bytes], text_field: str) -> Generator[bytes, None, bool]:
    """The text of a line that comes in chunks; returns whether it was repaired.

    Raises:
        BadDocumentError: The line is not JSON, or has no text at that field.
    """
    scan = _Scanner(chunks)
    first = scan.peek()
    if first != b"{":
        scan.skip()
        raise BadDocumentError(f"not a JSON object but {_KINDS.get(first, 'a number')}")
    first_key, *rest = text_field.split(".")
    there: list[str] = []
    repaired = yield from _find(scan, {first_key: rest, text_field: []}, text_field, there)
    if scan.peek():
        raise scan.fail("more after the object")
    if repaired is None:
        raise BadDocumentError(no_field(text_field, there))
    return repaired


def _find(
    scan: "_Scanner", wanted: dict[str, list[str]], text_field: str, there: list[str]
) -> Generator[bytes, None, bool | None]:
    """The text in the object that comes next, at a key of `wanted` and below it at the keys listed there."""
    repaired, found = None, ""
    for key in scan.members():
        if len(there) < 10:
            there.append(key)
        if key not in wanted:
            scan.skip()
            continue
        if found:
            raise BadDocumentError(
                f"field {text_field!r} is there twice, which is refused in a line of this length"
            )
        found, rest = key, wanted[key]
        first = scan.peek()
        if not rest and first != b'"':
            scan.skip()
            raise BadDocumentError(no_string(text_field, _KINDS.get(first, "a number")))
        if not rest:
            repaired = yield from scan.text()
        elif first == b"{":
            repaired = yield from _find(scan, {rest[0]: rest[1:]}, text_field, [])
        else:
            scan.skip()
    return repaired


class _Scanner:
    """Reads JSON from chunks of bytes, of which it holds one and the token that began before it."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = chunks
        self._data = b""
        self._at = 0
        self._before = 0  # bytes dropped before the data

    def fail(self, what: str) -> BadDocumentError:
        return BadDocumentError(f"not JSON: {what} at byte {self._before + self._at} of the line")

    def peek(self) -> bytes:
        """The next byte that is no white space, b"" at the end."""
        while True:
            self._at = _SPACE.match(self._data, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._data) or not self._more():
                return self._data[self._at : self._at + 1]

    def members(self) -> Iterator[str]:
        """The keys of the object that comes next; the caller reads each value before it asks for the next key."""
        self._expect(b"{")
        if self._accept(b"}"):
            return
        while True:
            yield self._key()
            if self._accept(b"}"):
                return
            self._expect(b",")

    def text(self) -> Generator[bytes, None, bool]:
        """The string that comes next, in UTF-8; returns whether it was repaired."""
        repaired = False
        for run in self._runs():
            part, mended = _unescape(run)
            repaired |= mended
            if part:
                yield part
        return repaired

    def skip(self) -> None:
        """Reads the value that comes next."""
        closing = bytearray()  # of the arrays and objects that are open
        while True:
            first = self.peek()
            if first in (b"{", b"["):
                self._at += 1
                end = b"}" if first == b"{" else b"]"
                if not self._accept(end):
                    closing += end
                    if len(closing) > MOST_DEPTH:
                        raise self.fail("nesting too deep")
                    if first == b"{":
                        self._key()
                    continue
            elif first == b'"':
                for _ in self._runs():
                    pass
            else:
                self._scalar()
            while closing:  # a value has ended
                if self._accept(b","):
                    if closing.endswith(b"}"):
                        self._key()
                    break
                self._expect(bytes([closing.pop()]))
            else:
                return

    def _key(self) -> str:
        key = b""
        for run in self._runs():
            key += _unescape(run)[0]
            if len(key) > MOST_TOKEN:
                raise self.fail("a key too long")
        self._expect(b":")
        return key.decode()

    def _scalar(self) -> None:
        while True:
            end = _WORD.match(self._data, self._at).end()  # type: ignore[union-attr]
            if end - self._at > MOST_TOKEN:
                raise self.fail("a number too long")
            if end < len(self._data) or not self._more():
                break
        if not _SCALAR.fullmatch(self._data, self._at, end):
            raise self.fail("no value")
        self._at = end

    def _runs(self) -> Iterator[bytes]:
        """The string that comes next, still escaped, in parts that no character and no escape straddles."""
        self._expect(b'"')
        while True:
            end = _RUN.match(self._data, self._at).end()  # type: ignore[union-attr]
            closed = self._data[end : end + 1] == b'"'
            run = self._data[self._at : end]
            if not closed:
                run = run[: _whole(run)]
            self._at += len(run)
            yield run
            if closed:
                self._at += 1
                return
            stopped = len(self._data) - end  # by a control character, by an escape that is none or has only begun
            if stopped >= _ESCAPE_BYTES or (stopped and self._data[end] != ord("\\")) or not self._more():
                raise self.fail("a string that is cut off or holds what must be escaped")

    def _accept(self, byte: bytes) -> bool:
        if self.peek() != byte:
            return False
        self._at += 1
        return True

    def _expect(self, byte: bytes) -> None:
        if not self._accept(byte):
            raise self.fail(f"no {byte.decode()}")

    def _more(self) -> bool:
        """Gets another chunk."""
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        self._before += self._at
        self._data = self._data[self._at :] + chunk
        self._at = 0
        return True


def _whole(run: bytes) -> int:
    """The length of `run` less that of a character, or of a pair of surrogates, that has only begun."""
    end = complete(run)
    start = end - _ESCAPE_BYTES
    if start >= 0 and _HIGH_SURROGATE.match(run, start):
        backslashes = start - len(run[:start].rstrip(b"\\"))
        if backslashes % 2 == 0:  # else the one at the start is itself escaped
            return start
    return end


def _unescape(run: bytes) -> tuple[bytes, bool]:
    if b"\\" not in run:
        return repair(run)
    quoted = b'"%b"' % run
    try:
        return orjson.loads(quoted).encode(), False
    except orjson.JSONDecodeError:
        decoded = quoted.decode("utf-8", errors="replace")
        text, mended = mend(json.loads(decoded))
        return text, mended or decoded.encode() != quoted
