"""Which directories are checkpoints, by their names: `step-00001000`, eight digits or more. Free of torch."""

import re
from pathlib import Path

_NAME = re.compile(r"step-(\d{8,})")


def checkpoint_name(step: int) -> str:
    """The directory of the checkpoint of a step."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step that a checkpoint's directory is named after.

    Raises:
        ValueError: It is no such name.
    """
    match = _NAME.fullmatch(path.name)
    if not match:
        raise ValueError(f"{path.name} is not the name of a checkpoint, such as {checkpoint_name(1000)}")
    return int(match[1])


def finished(checkpoints: Path) -> list[Path]:
    """The directories in `RUN/checkpoints` that were renamed into place, oldest first."""
    found = [path for path in checkpoints.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)
