"""Streaming parser for JSON lines that are too long to hold in memory, or beyond a limit of the module json.

It finds and unescapes the text, and accepts the same JSON as `jsonl.parse`, with one exception. If a key occurs
twice, `jsonl.parse` uses the last value. Here the first has already been yielded, so a line in which the text's
key occurs twice is a bad document.
"""

import json
import re
from collections.abc import Generator, Iterator

import orjson

from gpt2dist.corpus.documents import BadDocumentError
from gpt2dist.corpus.encodings import decode_utf8
from gpt2dist.corpus.readers.fields import mend, no_field, no_object, no_string
from gpt2dist.corpus.utf8 import complete, repair

MOST_DEPTH = 100_000
"""Maximum nesting, which is more than the module json accepts on any version of Python."""
MOST_TOKEN = 1 << 20
"""Maximum bytes of a key or number."""

_SPACE = re.compile(rb"[ \t\n\r]*+")
# The inner group is atomic: before Python 3.11.5 a possessive quantifier over a group that can backtrack may
# match too much (python/cpython#106052). The outer quantifier is possessive: a greedy one keeps a state per
# escape, 700 MiB for 8 MiB of \n.
_RUN = re.compile(rb'(?:(?>[^"\\\x00-\x1f]+|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})))*+')
_WORD = re.compile(rb"[-+.0-9A-Za-z]*+")
_SCALAR = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null|NaN|-?Infinity")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_ESCAPE_BYTES = 6
_KINDS = {b"{": "dict", b"[": "list", b'"': "str", b"t": "bool", b"f": "bool", b"n": "NoneType"}


def text_parts(chunks: Iterator[bytes], text_field: str) -> Generator[bytes, None, int]:
    """Yield the text of a line that arrives in chunks; return the number of characters that were replaced.

    Raises:
        BadDocumentError: The line is not a JSON object, has no string at that field, or has the field twice.
    """
    scan = _Scanner(chunks)
    first = scan.peek()
    if first != b"{":
        if first != b"[":  # an array may continue on the next lines: do not read to its end
            scan.skip()
        raise BadDocumentError(no_object(_KINDS.get(first, "a number")))
    first_key, *rest = text_field.split(".")
    there: list[str] = []
    repaired = yield from _find(scan, {first_key: rest, text_field: []}, text_field, there)
    if scan.peek():
        raise scan.fail("extra data after the object")
    if repaired is None:
        raise BadDocumentError(no_field(text_field, there))
    return repaired


def _find(
    scan: "_Scanner", wanted: dict[str, list[str]], text_field: str, there: list[str]
) -> Generator[bytes, None, int | None]:
    """Yield the text of the next object, at a key of `wanted` and the nested keys listed there.

    Return the number of characters that were replaced; None if the text was not found. Add the object's first
    10 keys to `there`.
    """
    repaired: int | None = None
    found: list[str] | None = None  # the nested keys at which the text was found
    for key in scan.members():
        if len(there) < 10:
            there.append(key)
        rest = wanted.get(key)
        if rest is None or (rest and found == []):  # a key equal to the whole name wins over nested keys
            scan.skip()
            continue
        if found is not None:
            raise BadDocumentError(f"field {text_field!r} occurs twice; remove one")
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
        if repaired is not None:
            found = rest
    return repaired


class _Scanner:
    """JSON scanner over chunks of bytes. It holds one chunk and the token that started before it."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = chunks
        self._data = b""
        self._at = 0
        self._before = 0  # bytes of the line before `_data`

    def fail(self, what: str) -> BadDocumentError:
        return BadDocumentError(f"not JSON: {what} at byte {self._before + self._at} of the line")

    def peek(self) -> bytes:
        """Return the next byte that is not whitespace, without consuming it; b"" at the end."""
        while True:
            self._at = _SPACE.match(self._data, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._data) or not self._more():
                return self._data[self._at : self._at + 1]

    def members(self) -> Iterator[str]:
        """Yield the keys of the next object. The caller must read each value before it requests the next key."""
        self._expect(b"{")
        if self._accept(b"}"):
            return
        while True:
            yield self._key()
            if self._accept(b"}"):
                return
            self._expect(b",")

    def text(self) -> Generator[bytes, None, int]:
        """Yield the next string in parts, as UTF-8; return the number of characters that were replaced."""
        repaired = 0
        for run in self._runs():
            part, mended = _unescape(run)
            repaired += mended
            if part:
                yield part
        return repaired

    def skip(self) -> None:
        """Skip the next value."""
        closing = bytearray()  # closing brackets of the open arrays and objects
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
            while closing:  # after a value
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
        """Yield the next string, still escaped, in parts that split neither a character nor an escape."""
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
            # The match may stop at a control character, at an invalid escape, or at an escape that the next chunk
            # completes. Only the last is valid.
            stopped = len(self._data) - end
            if stopped >= _ESCAPE_BYTES or (stopped and self._data[end] != ord("\\")) or not self._more():
                raise self.fail("an unterminated string, an invalid escape or an unescaped control character")

    def _accept(self, byte: bytes) -> bool:
        if self.peek() != byte:
            return False
        self._at += 1
        return True

    def _expect(self, byte: bytes) -> None:
        if not self._accept(byte):
            raise self.fail(f"no {byte.decode()}")

    def _more(self) -> bool:
        """Append the next chunk; return whether there was one."""
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        self._before += self._at
        self._data = self._data[self._at :] + chunk
        self._at = 0
        return True


def _whole(run: bytes) -> int:
    """Return the length of `run` without an incomplete character or surrogate pair at its end."""
    end = complete(run)
    start = end - _ESCAPE_BYTES
    if start >= 0 and _HIGH_SURROGATE.match(run, start):
        backslashes = start - len(run[:start].rstrip(b"\\"))
        if backslashes % 2 == 0:  # otherwise the backslash at `start` is itself escaped
            return start
    return end


def _unescape(run: bytes) -> tuple[bytes, int]:
    if b"\\" not in run:
        return repair(run)
    quoted = b'"%b"' % run
    try:
        return orjson.loads(quoted).encode(), 0
    except orjson.JSONDecodeError:
        return mend(json.loads(decode_utf8(quoted)))
