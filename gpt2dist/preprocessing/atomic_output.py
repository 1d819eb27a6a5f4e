"""How a worker writes: into a folder of its own, which gets its name when it is whole; and says how far it is."""

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
"""Written last into a folder that is whole."""


@contextmanager
def attempt(final: Path, running: Path) -> Iterator[Path]:
    """A new folder to write in, which becomes `final` when the block ends. Several may try at once: one wins.

    Args:
        final: The name that it gets; nothing is lost if another attempt has got it first.
        running: Where folders lie that are being written.

    Raises:
        RunError: The folder or a file in it cannot be written.
    """
    folder = running / f"{final.parent.name}-{final.name}-{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir(parents=True)
        yield folder
        _publish(folder, final)
    except OSError as error:  # the corpus raises UserError, so this is about our own files
        raise RunError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}). What is done is kept: "
            "mend that, and run the same command again to go on"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, final: Path) -> None:
    final.parent.mkdir(exist_ok=True)
    if final.exists() and not (final / MARKER).exists():
        shutil.rmtree(final)  # its marker was removed, to have it done again
    try:
        atomic_io.rename_directory(folder, final)
    except OSError:
        if not (final / MARKER).exists():
            raise


@dataclass
class Counts:
    """Work done."""

    bytes: int = 0
    """Of the corpus files."""
    tokens: int = 0
    documents: int = 0
    rejected: int = 0

    def add(self, more: "Counts") -> None:
        """Adds the work of `more` to this."""
        for item in fields(Counts):
            setattr(self, item.name, getattr(self, item.name) + getattr(more, item.name))


class ProgressFile:
    """How far an attempt is: four numbers that are written over and over, and read by who drives the job.

    A file serves workers in other processes and on other hosts alike.

    Args:
        folder: Of the attempt; the file goes when it is done.
    """

    NAME = "progress"

    def __init__(self, folder: Path):
        self._path = folder / self.NAME
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT)

    def write(self, counts: Counts) -> None:
        """Replaces what it says."""
        numbers = [getattr(counts, item.name) for item in fields(Counts)]
        os.pwrite(self._descriptor, b"".join(number.to_bytes(8, "little") for number in numbers), 0)

    def close(self) -> None:
        """Removes the file."""
        os.close(self._descriptor)
        self._path.unlink()

    @staticmethod
    def read_all(running: Path) -> Counts:
        """The sum over all attempts that are being written."""
        total = Counts()
        for path in running.glob(f"*/{ProgressFile.NAME}"):
            try:
                data = path.read_bytes()
            except OSError:  # finished in this moment
                continue
            if len(data) == 8 * len(fields(Counts)):
                numbers = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
                total.add(Counts(*numbers))
        return total
