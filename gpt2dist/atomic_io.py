"""Small files that are there whole or not at all, also after a crash, and the hashes of files of any size."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes or replaces a small file in one piece: readers see the old text or the new one."""
    write_lines(path, [text], end="")


def write_json(path: Path, value: Any) -> None:
    """Writes or replaces a JSON file in one piece."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_lines(path: Path, lines: Iterable[str], end: str = "\n") -> None:
    """Writes or replaces a file line by line, in one piece."""
    partial = path.with_name(
        f"{path.name}.{uuid.uuid4().hex[:12]}.tmp"
    )  # other processes may write the same file
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(line + end)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Brings a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_text(text: str) -> str:
    """Hex sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def rename_directory(partial: Path, final: Path) -> None:
    """Give a directory that is written its final name, durably.

    Raises:
        OSError: A directory that is not empty has that name, or it cannot be given.
    """
    sync(partial)
    partial.rename(final)
    sync(final.parent)


def try_lock(file: int, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed, without waiting.

    Args:
        file: Its descriptor.
        shared: Whether other shared locks may be held at the same time.

    Returns:
        Whether the lock was taken; None if the file system has no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """The same with None for numbers that are not finite, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
