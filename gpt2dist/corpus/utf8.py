"""Repair of invalid UTF-8, for whole texts and for texts in parts."""

from collections.abc import Generator, Iterable

REPLACEMENT = "\ufffd"
_VECTORIZED_BYTES = 1 << 12
"""Length from which NumPy counts characters faster than decoding does."""


def repair(data: bytes) -> tuple[bytes, int]:
    """Replace each invalid sequence by U+FFFD. Return the data, and the number of replacements."""
    if data.isascii():
        return data, 0
    try:
        data.decode()
        return data, 0
    except UnicodeDecodeError:
        text = data.decode("utf-8", errors="replace")
        return text.encode(), text.count(REPLACEMENT) - data.count(REPLACEMENT.encode())


def repair_parts(chunks: Iterable[bytes]) -> Generator[bytes, None, int]:
    """Yield the repaired chunks in parts that end between characters; return the number of replacements."""
    replaced, held = 0, b""
    for chunk in chunks:
        held += chunk
        end = complete(held)
        part, broken = repair(held[:end])
        held, replaced = held[end:], replaced + broken
        if part:
            yield part
    part, broken = repair(held)
    if part:
        yield part
    return replaced + broken


def count_characters(text: bytes) -> int:
    """Return the number of characters in valid UTF-8."""
    if text.isascii():
        return len(text)
    if len(text) < _VECTORIZED_BYTES:
        return len(text.decode())
    import numpy as np  # here, since readers of short texts need no NumPy

    # As signed numbers, the bytes 0x80 … 0xBF, which continue a character, are below -64.
    return len(text) - int(np.count_nonzero(np.frombuffer(text, np.int8) < -64))


def complete(data: bytes) -> int:
    """Return the length of `data` without an incomplete character at its end."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:  # the first byte of a character determines its length
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if length > back else len(data)
    return len(data)
