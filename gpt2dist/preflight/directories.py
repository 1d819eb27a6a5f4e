"""Check the directories of a run: its own, and the checkpoint to resume from."""

from collections.abc import Iterator
from pathlib import Path

from gpt2dist.config import Config, Problem


def check_directories(config: Config) -> Iterator[Problem]:
    """Check the run directory and the checkpoint to resume from."""
    output = config.output_dir
    blocking = [path for path in (output, *output.parents) if _kind(path) == "file"]
    if blocking:
        yield Problem("run.output_dir", f"{blocking[0]} is a file; name a directory", also=("run.name",))
    resume = config.checkpoint.resume
    if resume not in ("auto", "never") and _kind(Path(resume, "manifest.json")) != "file":
        yield Problem(
            "checkpoint.resume",
            f"{resume} is not a checkpoint (it has no manifest.json); set auto, never or a checkpoint's path",
        )


def _kind(path: Path) -> str:
    """Return "directory" or "file"; empty if `path` does not exist or cannot be accessed."""
    try:
        return "directory" if path.is_dir() else "file" if path.exists() else ""
    except OSError:
        return ""
