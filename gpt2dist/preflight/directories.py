"""Check the directories of a run: its own, and the checkpoint to resume from."""

import stat
from collections.abc import Iterator
from pathlib import Path

from gpt2dist.config import Config, Problem
from gpt2dist.errors import UserError
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.latest import named_checkpoint


def check_directories(config: Config) -> Iterator[Problem]:
    """Check the run directory and the checkpoint to resume from."""
    output = config.output_dir
    blocking = [path for path in (output, *output.parents) if _kind(path) == "file"]
    if blocking:
        yield Problem("run.output_dir", f"{blocking[0]} is a file; name a directory", also=("run.name",))
    resume = config.checkpoint.resume
    try:
        named_checkpoint(resume)
    except UserError as error:
        yield Problem("checkpoint.resume", str(error))
    if resume == "latest" and _kind(RunDirectory(output).latest) != "file":
        yield Problem(
            "checkpoint.resume",
            f"latest, but {output} has no checkpoint; set auto to start a new run, or the path of another run",
            also=("run.output_dir", "run.name"),
        )


def _kind(path: Path) -> str:
    """Return "directory" or "file"; empty if `path` does not exist or cannot be accessed."""
    try:
        mode = path.stat().st_mode  # asked once, since another rank may create the directory meanwhile
    except OSError:
        return ""
    return "directory" if stat.S_ISDIR(mode) else "file"
