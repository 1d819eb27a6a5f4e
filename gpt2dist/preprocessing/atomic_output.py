"""Atomic output folders, which get their final names when complete, and the progress files of workers."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from gpt2dist import atomic_io
from gpt2dist.errors import RunError

MARKER = "done.json"
"""Marker file, written last: a folder with it is complete."""


@contextmanager
def attempt(final: Path, running: Path) -> Iterator[Path]:
    """Create a folder to write to, and rename it to `final` when the block ends.

    Several processes may attempt the same folder at the same time; one of them wins.

    Args:
        final: The final path. If another attempt has already taken it, this attempt is discarded.
        running: The directory of folders that are being written.

    Raises:
        RunError: The folder or a file in it cannot be written.
    """
    folder = running / f"{final.parent.name}-{final.name}-{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir(parents=True)
        yield folder
        _publish(folder, final)
    except OSError as error:  # Reading the corpus raises UserError, so this error concerns our own files.
        raise RunError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}). Finished work is "
            "kept: fix this, and run the same command again to resume"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, final: Path) -> None:
    final.parent.mkdir(exist_ok=True)
    if final.exists() and not (final / MARKER).exists():
        shutil.rmtree(final)  # The driver removed its marker so that the task runs again.
    try:
        atomic_io.rename_directory(folder, final)
    except OSError:
        if not (final / MARKER).exists():
            raise


@dataclass
class Counts:
    """Amount of work done."""

    bytes: int = 0
    """Bytes of the corpus files."""
    tokens: int = 0
    documents: int = 0
    rejected: int = 0
    characters: int = 0
    """Characters of the documents that were read, skipped ones included."""
    replaced: int = 0
    """How many of them are U+FFFD in place of invalid text."""
    skipped: int = 0
    """Documents and records that were omitted for any reason other than being unreadable."""

    def add(self, more: "Counts") -> None:
        """Add `more` to these counts, in place."""
        for item in fields(Counts):
            setattr(self, item.name, getattr(self, item.name) + getattr(more, item.name))


class ProgressFile:
    """Progress of one attempt: the `Counts` that a worker overwrites and the driver polls.

    A file works for workers in other processes and on other hosts.

    Args:
        folder: The folder of the attempt. `close` deletes the file.
    """

    NAME = "progress"

    def __init__(self, folder: Path):
        self._path = folder / self.NAME
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT)

    def write(self, counts: Counts) -> None:
        """Overwrite the file with `counts`."""
        numbers = [getattr(counts, item.name) for item in fields(Counts)]
        os.pwrite(self._descriptor, b"".join(number.to_bytes(8, "little") for number in numbers), 0)

    def close(self) -> None:
        """Close and delete the file."""
        os.close(self._descriptor)
        self._path.unlink()

    @staticmethod
    def read_all(running: Path) -> Counts:
        """Return the sum of the counts of all running attempts."""
        total = Counts()
        for path in running.glob(f"*/{ProgressFile.NAME}"):
            try:
                data = path.read_bytes()
            except OSError:  # The attempt has just finished.
                continue
            if len(data) == 8 * len(fields(Counts)):
                numbers = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
                total.add(Counts(*numbers))
        return total
