"""Atomic and durable writes of small files, and helpers for file hashes, directory renames and file locks."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write or replace a small file atomically: readers see the old text or the new one, even after a crash."""
    write_lines(path, [text], end="")


def write_json(path: Path, value: Any) -> None:
    """Write or replace a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_lines(path: Path, lines: Iterable[str], end: str = "\n") -> None:
    """Write or replace a file atomically, line by line."""
    write_parts(path, ((line + end).encode() for line in lines))


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Write or replace a file atomically, part by part."""
    # The name is unique because other processes may write the same file.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with partial.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex.

    Raises:
        OSError: The file cannot be read, or is not a regular file: opening a FIFO would block.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_text(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hex."""
    whole = TextHash()
    whole.add(text)
    return whole.hexdigest()


class TextHash:
    """The SHA-256 of a text that comes in parts; see `sha256_of_text`."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, part: str) -> None:
        """Add the next part."""
        self._hash.update(part.encode("utf-8", "surrogateescape"))

    def hexdigest(self) -> str:
        """Return the hash in hex."""
        return self._hash.hexdigest()


def rename_directory(partial: Path, final: Path) -> None:
    """Give a fully written directory its final name, durably.

    Raises:
        OSError: A non-empty directory has that name, or the rename fails.
    """
    sync(partial)
    partial.rename(final)
    sync(final.parent)


def try_lock(file: int, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed, without waiting.

    Args:
        file: File descriptor.
        shared: Whether other processes may hold shared locks at the same time.

    Returns:
        Whether the lock was taken; None if the file system does not support locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values, with None for floats that are not finite, since JSON cannot represent them."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
