"""Copy of standard input in a file: it can be read only once, but a resumed job must read it again."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from gpt2dist.corpus import files
from gpt2dist.corpus.documents import Source
from gpt2dist.corpus.formats import PLAIN_FORMATS

_MARKS = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"\xfd7zXZ\0": "xz", b"BZh": "bz2"}


def spool(stream: BinaryIO, path: Path, format: str) -> Source:
    """Copy standard input into a file, and detect the compression of plain formats from the first bytes.

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
            head = head or block[:8]
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    plain = format in PLAIN_FORMATS
    compression = next((kind for mark, kind in _MARKS.items() if plain and head.startswith(mark)), "")
    return Source("-", format, compression, path.stat().st_size, digest.hexdigest(), str(path))
