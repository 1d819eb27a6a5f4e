"""Encodings other than UTF-8: names, byte-order marks, conversion, and guesses at an unknown encoding."""

import codecs
from dataclasses import dataclass

from gpt2dist.corpus.utf8 import REPLACEMENT, complete
from gpt2dist.errors import UserError

SAMPLE_BYTES = 64 << 10
"""Bytes from which an encoding is guessed."""

_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark is a prefix of it
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
MARK_BYTES = max(map(len, _MARKS))
"""Bytes at the start of a file that decide whether it has a byte-order mark."""

_NOT_FOR_FILES = ("idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "mbcs", "oem")
"""Python's text encodings that are for names, source code or one operating system."""
_LINE_FEED_IN_CONTEXT = ("utf", "iso2022", "hz", "euc_kr")
"""Prefixes of encodings in which the byte 0x0A is not always a line feed, or which have a state across lines.
In euc_kr, a damaged character may swallow it."""
_COMMON = ("gb18030", "cp932", "cp949", "big5", "cp1252", "cp1251")
"""Encodings to prefer where several fit equally well."""

_BY_CHANCE = 16
"""Continuation bytes up to which text in another encoding may be valid UTF-8 by chance."""

_ALWAYS_ASCII = (b" ", b"\r", b'"', b",", b".")
"""Bytes that are never part of a multi-byte character in any encoding with ASCII."""

_ESCAPE_BYTES = 16
"""Bytes after an escape in which decoders of ISO 2022 look for its end. They keep only 8 between two calls."""

_ERRORS = "gpt2dist-invalid"
_INVALID = b"\xff"
"""Byte that replaces an invalid sequence. It is never part of UTF-8, so readers count it as one bad character."""


@dataclass(frozen=True)
class Guess:
    """An encoding in which some bytes are plausible text."""

    encoding: str
    text: str
    """The beginning of the decoded bytes."""


def canonical_name(name: str) -> str | None:
    """Return Python's name of a text encoding; None for UTF-8, which is read without being decoded.

    Raises:
        UserError: Python has no such text encoding.
    """
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        found = None
    if found is None or not found._is_text_encoding or found.name in _NOT_FOR_FILES:
        raise UserError(
            f"--encoding {name}: unknown text encoding; use one such as gb18030, shift_jis, euc_kr, "
            "big5, cp1252, latin-1 or utf-16"
        )
    return None if found.name in ("utf-8", "utf-8-sig") else found.name


def marked_encoding(head: bytes) -> str | None:
    """Return the encoding that the byte-order mark at the start of a file names; None if there is no mark."""
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)


def is_plainly_utf8(head: bytes) -> bool:
    """Return whether the start of a file is UTF-8 with more characters beyond ASCII than occur by chance.

    In other encodings, the bytes of a few characters may look like UTF-8.
    """
    text = head[: complete(head)]
    try:
        return len(text) - len(text.decode()) > _BY_CHANCE
    except UnicodeDecodeError:
        return False


def can_cut_at_line_feeds(encoding: str) -> bool:
    """Return whether the byte 0x0A is a line feed wherever it occurs, so that a file can be cut after it."""
    return not encoding.startswith(_LINE_FEED_IN_CONTEXT) and b"\n".decode(encoding) == "\n"


class Transcoder:
    """Converter of a stream of bytes in some encoding to UTF-8, with the byte 0xFF for each invalid sequence.

    Args:
        encoding: Canonical name of the encoding.
    """

    def __init__(self, encoding: str):
        self._decoder = codecs.getincrementaldecoder(encoding)(_ERRORS)
        self._held = b""

    def feed(self, data: bytes, final: bool = False) -> bytes:
        """Convert the next bytes; the last call must set `final`."""
        data = self._held + data
        for held in range(_ESCAPE_BYTES + 1):
            state, end = self._decoder.getstate(), max(len(data) - held, 0)
            try:
                text = self._decoder.decode(data[:end], final)
            except UnicodeError:  # a damaged escape sequence at the end, too long for the decoder to keep
                self._decoder.setstate(state)
            else:
                break
        self._held = data[end:]
        return text.encode("utf-8", _ERRORS)


def decode_utf8(data: bytes) -> str:
    """Decode UTF-8 with a lone surrogate for each invalid sequence, where errors="replace" has a U+FFFD."""
    if REPLACEMENT.encode() in data:
        return data.decode("utf-8", _ERRORS)
    return data.decode("utf-8", errors="replace").replace(REPLACEMENT, "\udcff")  # the same, many times as fast


def _mark_invalid(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handle errors for `codecs`: decode invalid sequences to lone surrogates, and encode surrogates as 0xFF."""
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    if isinstance(error, UnicodeEncodeError):
        return _INVALID * (error.end - error.start), error.end
    raise error


codecs.register_error(_ERRORS, _mark_invalid)


def guess(data: bytes, encoding: str | None = None, most: int = 3) -> list[Guess]:
    """Return the most plausible encodings of bytes that are not all valid, the best first; [] if none fits.

    Args:
        data: Bytes of a file. Only the invalid lines are examined, unless there are zero bytes.
        encoding: The encoding in which they are not valid; None for UTF-8.
        most: Maximum number of encodings.
    """
    if b"\0" in data[:SAMPLE_BYTES]:  # as in UTF-16, which cannot be split at the byte 0x0A
        return _fitting(data[:SAMPLE_BYTES], most)
    if encoding and not _from_invalid(data[: complete(data)], "utf-8"):
        return [Guess("utf-8", data.decode(errors="ignore"))]
    lines = [_from_invalid(line, encoding or "utf-8") for line in data.split(b"\n") if not line.isascii()]
    lines = [line for line in lines if line]
    while lines:
        sample = b"\n".join(lines)
        if len(sample) <= SAMPLE_BYTES and (found := _fitting(sample, most)):
            return found
        if len(lines) == 1:
            return _fitting(_cut(sample), most)
        del lines[(len(lines) + 1) // 2 :]  # the first half: a single damaged character rules out every encoding
    return []


def has_utf8_lines(data: bytes) -> bool:
    """Return whether more of the non-ASCII lines are valid UTF-8 than would be by chance."""
    lines = [line for line in data.split(b"\n") if not line.isascii()]
    valid = [line for line in lines if not _from_invalid(line, "utf-8")]
    return 5 * len(valid) > len(lines) and is_plainly_utf8(b"\n".join(valid))


def _fitting(sample: bytes, most: int) -> list[Guess]:
    from charset_normalizer import from_bytes

    # Each match stands for all encodings that decode the sample to the same text.
    fits = [
        (match.chaos, -match.coherence, *_best_known(match.could_be_from_charset)) for match in from_bytes(sample)
    ]
    names = [name for *_, name in sorted(fits) if name not in ("utf_8", "ascii")][:most]
    return [Guess(name, sample.decode(name, errors="replace")) for name in names]


def _cut(line: bytes) -> bytes:
    """Cut a long line, if possible at a byte that is a whole character in all multi-byte encodings."""
    sample = line[:SAMPLE_BYTES]
    return sample if len(sample) == len(line) else sample[: max(map(sample.rfind, _ALWAYS_ASCII)) + 1] or sample


def _best_known(names: list[str]) -> tuple[int, str]:
    """Return the rank and name of the most common of some encodings."""
    return min((_COMMON.index(name) if name in _COMMON else len(_COMMON), name) for name in names)


def _from_invalid(line: bytes, encoding: str) -> bytes:
    """Return a line from a few words before its first invalid byte; b"" if the whole line is valid."""
    try:
        line.decode(encoding)
    except UnicodeDecodeError as error:
        # A space is a whole character in all multi-byte encodings with ASCII.
        return line[line.rfind(b" ", 0, max(error.start - 20, 0)) + 1 :]
    return b""
