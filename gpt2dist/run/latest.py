"""`checkpoints/latest`, the file that names the newest checkpoint. Does not import torch."""

from pathlib import Path

from gpt2dist import atomic_io, json_files
from gpt2dist.run.directory import LATEST, RunDirectory

MAX_BYTES = 256


def write_latest(checkpoints: Path, name: str) -> None:
    """Name the newest checkpoint in `RUN/checkpoints`."""
    atomic_io.write_text(checkpoints / LATEST, name + "\n")


def read_latest(run: Path) -> Path:
    """Return the directory of a run's newest checkpoint, which may be gone.

    Raises:
        OSError: The file does not exist or cannot be read.
        ValueError: The file does not name a directory beside it.
    """
    directory = RunDirectory(run)
    name = json_files.read_text(directory.latest, MAX_BYTES).strip()
    if not name.isprintable() or name in ("", ".", "..") or "/" in name:
        raise ValueError(f"{name[:40]!r} is not the name of a checkpoint, such as step-00001000")
    return directory.checkpoints / name
