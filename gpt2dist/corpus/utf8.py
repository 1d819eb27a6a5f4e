"""Repair of invalid UTF-8, for whole texts and for texts in parts."""

from collections.abc import Generator, Iterable

REPLACEMENT = "\ufffd"


def repair(data: bytes) -> tuple[bytes, bool]:
    """Replace each invalid sequence by U+FFFD. Return the data, and whether anything was replaced."""
    if data.isascii():
        return data, False
    try:
        data.decode()
        return data, False
    except UnicodeDecodeError:
        return data.decode("utf-8", errors="replace").encode(), True


def repair_parts(chunks: Iterable[bytes]) -> Generator[bytes, None, bool]:
    """Yield the repaired chunks in parts that end between characters; return whether anything was repaired."""
    repaired, held = False, b""
    for chunk in chunks:
        held += chunk
        end = complete(held)
        part, broken = repair(held[:end])
        held, repaired = held[end:], repaired or broken
        if part:
            yield part
    part, broken = repair(held)
    if part:
        yield part
    return repaired or broken


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
