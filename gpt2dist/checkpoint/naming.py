"""Names of checkpoint directories: `step-00001000`, eight digits or more. Does not import torch."""

import re
from pathlib import Path

from gpt2dist.run.directory import BEST
from gpt2dist.run.latest import read_pointer

_NAME = re.compile(r"step-(\d{8,})")


def checkpoint_name(step: int) -> str:
    """Return the directory name of the checkpoint of a step."""
    return f"step-{step:08d}"


def is_checkpoint_name(name: str) -> bool:
    """Return whether this is the name of a checkpoint directory."""
    return _NAME.fullmatch(name) is not None


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint directory.

    Raises:
        ValueError: The name is not that of a checkpoint.
    """
    match = _NAME.fullmatch(path.name)
    if not match:
        raise ValueError(f"{path.name} is not the name of a checkpoint, such as {checkpoint_name(1000)}")
    return int(match[1])


def finished(checkpoints: Path) -> list[Path]:
    """Return the committed (renamed) checkpoint directories in `RUN/checkpoints`, by ascending step."""
    found = [path for path in checkpoints.glob("step-*") if is_checkpoint_name(path.name)]
    return sorted(found, key=step_of)


def best_step(checkpoints: Path) -> int | None:
    """Return the step of the checkpoint that `best` in `RUN/checkpoints` names; None if it names none."""
    try:
        return step_of(read_pointer(checkpoints / BEST))
    except (OSError, ValueError):
        return None
