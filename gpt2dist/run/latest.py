"""`latest` and `best`, the files that name the newest and the best checkpoint. Does not import torch."""

from pathlib import Path

from gpt2dist import atomic_io, json_files
from gpt2dist.errors import UserError
from gpt2dist.run.directory import BEST, LATEST, RunDirectory

MAX_BYTES = 256


WORDS = ("auto", "latest", "never")
"""Values of `checkpoint.resume` that are not a path. `./latest` is one."""


def named_checkpoint(resume: str) -> Path | None:
    """Return the checkpoint that `checkpoint.resume` names.

    The value is its path, RUN/checkpoints/best or RUN/checkpoints/latest, or a run directory for its latest one.

    Args:
        resume: Value of the key.

    Returns:
        The checkpoint, which may be incomplete; None if the value is one of WORDS.

    Raises:
        UserError: It is neither a checkpoint nor a run directory with one.
    """
    if resume in WORDS:
        return None
    path = Path(resume)
    try:
        if (path / "manifest.json").is_file():
            return path
        if is_pointer(path):
            return read_pointer(path)
        if RunDirectory(path).latest.is_file():
            return read_latest(path)
        fault = "has no checkpoint yet" if RunDirectory(path).config.is_file() else "has no manifest.json"
        what = "a run that" if fault.endswith("yet") else "neither a checkpoint nor a run directory: it"
    except (OSError, ValueError) as error:
        what, fault = "a path that", f"cannot be read ({json_files.reason(error)})"
    raise UserError(
        f"{resume} is {what} {fault}; set auto, latest, never, or the path of a checkpoint or a run directory"
    )


def write_latest(checkpoints: Path, name: str) -> None:
    """Name the newest checkpoint in `RUN/checkpoints`."""
    atomic_io.write_text(checkpoints / LATEST, name + "\n")


def write_best(checkpoints: Path, name: str) -> None:
    """Name the best checkpoint in `RUN/checkpoints`."""
    atomic_io.write_text(checkpoints / BEST, name + "\n")


def is_pointer(path: Path) -> bool:
    """Return whether this is the path of `latest` or `best` of a run. The file may be missing."""
    return path.name in (LATEST, BEST) and path.parent.name == "checkpoints" and path.parent.is_dir()


def read_latest(run: Path) -> Path:
    """Return the directory of a run's newest checkpoint, as `read_pointer` does."""
    return read_pointer(RunDirectory(run).latest)


def best_checkpoint(run: Path) -> str | None:
    """Return the name of a run's best checkpoint by `checkpoint.keep_best`; None without one."""
    try:
        return read_pointer(RunDirectory(run).best).name
    except (OSError, ValueError):
        return None


def read_pointer(file: Path) -> Path:
    """Return the directory of the checkpoint that `latest` or `best` names, which may be gone.

    Raises:
        OSError: The file does not exist or cannot be read.
        ValueError: The file does not name a directory beside it.
    """
    name = json_files.read_text(file, MAX_BYTES).strip()
    if not name.isprintable() or name in ("", ".", "..") or "/" in name:
        raise ValueError(f"{name[:40]!r} is not the name of a checkpoint, such as step-00001000")
    return file.parent / name
