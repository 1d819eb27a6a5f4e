"""Copy of standard input in a file: it can be read only once, but a resumed job must read it again."""

import hashlib
import os
import re
from pathlib import Path
from typing import BinaryIO

from gpt2dist.corpus import files
from gpt2dist.corpus.documents import Source
from gpt2dist.corpus.formats import reader

_MARKS = {
    "gz": rb"\x1f\x8b",
    "zst": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",  # a frame, or a skippable one (pzstd)
    "xz": rb"\xfd7zXZ\0",
    "bz2": rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)",  # a block, or the end of a stream without one
}
"""Patterns of the first bytes of compressed data."""


def spool(stream: BinaryIO, path: Path, format: str) -> Source:
    """Copy standard input into a file, and detect from the first bytes whether it is compressed as a whole.

    Args:
        stream: Standard input.
        path: The file to create.
        format: Format of the content.

    Returns:
        A source with the path "-". Its version is the SHA-256 of the bytes.
    """
    digest, head = hashlib.sha256(), b""
    with open(path, "wb") as file:
        while block := stream.read(files.BLOCK_BYTES):
            head = head or block[:16]
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    marks = _MARKS if reader(format).compressible else {}
    compression = next((kind for kind, mark in marks.items() if re.match(mark, head)), "")
    return Source("-", format, compression, path.stat().st_size, digest.hexdigest(), str(path))
