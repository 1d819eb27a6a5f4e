"""UTF-8 that may be broken, whole and in parts."""

from collections.abc import Generator, Iterable

REPLACEMENT = "\ufffd"


def repair(data: bytes) -> tuple[bytes, bool]:
    """The data with each broken sequence replaced by U+FFFD, and whether there was one."""
    if data.isascii():
        return data, False
    try:
        data.decode()
        return data, False
    except UnicodeDecodeError:
        return data.decode("utf-8", errors="replace").encode(), True


def repair_parts(chunks: Iterable[bytes]) -> Generator[bytes, None, bool]:
    """What `repair` gives for the chunks joined, in parts that end between characters."""
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
    """The length of `data` less that of a character at its end that has only begun."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:  # the first byte of a character says how many it has
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if length > back else len(data)
    return len(data)
