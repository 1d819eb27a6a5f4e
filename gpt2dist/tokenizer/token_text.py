"""Compute the bytes of text that each token of a vocabulary represents."""

import re
from collections.abc import Iterator, Sequence, Set

import tokenizers


def byte_level_bytes(names: Sequence[str], plain: Set[str]) -> Iterator[bytes]:
    """Yield the bytes of tokens of a byte-level BPE.

    Args:
        names: The names of the tokens.
        plain: The added tokens, whose names are plain text, except those that merges produce too.
    """
    # In Latin-1, a character's code is its byte.
    table = {ord(character): chr(byte) for character, byte in _byte_of_character().items()}
    for name in names:
        try:
            yield name.encode() if name in plain else name.translate(table).encode("latin-1")
        except UnicodeEncodeError:  # a name that no text produces, because it is not in the byte alphabet
            yield name.encode()


def bytes_in_context(backend: tokenizers.Tokenizer, names: Sequence[str]) -> Iterator[bytes]:
    """Yield the bytes that a decoder adds to a text for each token; for a byte fallback, the byte itself.

    Args:
        backend: The tokenizer.
        names: The names of all of its tokens, by id.
    """
    anchor = next((number for number, name in enumerate(names) if name.isascii() and name.isalnum()), 0)
    head = backend.decode([anchor], skip_special_tokens=False)
    pairs = backend.decode_batch([[anchor, number] for number in range(len(names))], skip_special_tokens=False)
    for name, pair in zip(names, pairs, strict=True):
        if re.fullmatch("<0x[0-9A-F]{2}>", name):
            yield bytes([int(name[3:5], 16)])
        else:
            yield (pair[len(head) :] if pair.startswith(head) else name).encode()


def _byte_of_character() -> dict[str, int]:
    """Return the byte of each character of a byte-level vocabulary (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    moved = {chr(0x100 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | moved
