"""Read the files of a run, which other processes may write or remove at the same time.

A file that is missing, incomplete or unreadable counts as absent. A later read will find it.
"""

import math
import re
from pathlib import Path
from typing import Any

from gpt2dist import json_files
from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.naming import step_of
from gpt2dist.run import commit_calls, metrics_file
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.latest import read_latest
from gpt2dist.run.submissions import Submission, submissions

DEPTH = 3
"""Levels of subdirectories searched for runs."""
LOG_TAIL_BYTES = 2**16
SETTINGS_BYTES = 2**18
"""Size up to which config.yaml is read."""
_WATCHDOG = re.compile(rb"^Timeout \(", re.MULTILINE)  # first line of faulthandler's output


def is_run(directory: Path) -> bool:
    """Return whether a run was started in a directory, or was submitted."""
    run = RunDirectory(directory)
    here = any(path.is_file() for path in (run.environment, run.metrics, run.failed_marker))
    begun = run.lock.is_file() and run.logs.is_dir()
    return here or begun or last_submission(directory) is not None


def find_runs(directory: Path, depth: int = DEPTH) -> list[Path]:
    """Return `directory` if it is a run, else the runs below it, sorted by name. Runs inside runs are not found.

    Raises:
        OSError: The directory cannot be listed.
    """
    if is_run(directory):
        return [directory]
    found = []
    for path in sorted(directory.iterdir()) if depth else ():
        try:
            found += find_runs(path, depth - 1) if path.is_dir() else []
        except OSError:
            continue
    return found


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; return an empty one if that fails."""
    try:
        return dict(json_files.load(path, infinite=True))
    except (OSError, ValueError):
        return {}


def read_settings(run: Path) -> dict[str, dict[str, Any]]:
    """Read config.yaml by section, without validation; return an empty dict if that fails."""
    import yaml

    try:
        text = json_files.read_bytes(RunDirectory(run).config, SETTINGS_BYTES)
        value = yaml.load(text, yaml.SafeLoader)  # the C loader crashes on deep nesting
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {name: section for name, section in value.items() if isinstance(section, dict)}


def number(value: Any) -> float | None:
    """Return `value` if it is a finite number, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def last_lines(run: Path, tag: str) -> list[dict[str, Any]]:
    """Return the last lines of metrics.jsonl, back to at least one with `tag` if one exists."""
    try:
        return metrics_file.read_tail(RunDirectory(run).metrics, tag)
    except (OSError, ValueError):
        return []


def latest_checkpoint(run: Path) -> tuple[int, float] | None:
    """Return the step of the newest checkpoint and its completion time in seconds since 1970."""
    try:
        path = read_latest(run)
        return step_of(path), (path / manifest.NAME).stat().st_mtime
    except (OSError, ValueError):
        return None


def failed_call(run: Path, settings: dict[str, dict[str, Any]]) -> str:
    """Return what failed if the last call of the run's `checkpoint.on_commit` did; empty otherwise."""
    function = settings.get("checkpoint", {}).get("on_commit")
    return commit_calls.last_failure(run, function) if isinstance(function, str) else ""


def last_submission(run: Path) -> Submission | None:
    """Return the training job that was submitted last; None if there is none."""
    return next((each for each in reversed(submissions(run)) if each.verb == "train"), None)


def hung_ranks(run: Path) -> list[str]:
    """Return the rank logs that end with the stacks that the watchdog dumps before it kills a rank."""
    found = []
    for path in filter(json_files.is_file, sorted(RunDirectory(run).logs.glob("rank-*.log"))):
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
                tail = file.read()
        except OSError:
            continue
        *_, stacks = _WATCHDOG.split(tail)
        # Log lines start with the year. A line after the stacks means that the run was started again.
        if _WATCHDOG.search(tail) and not re.search(rb"^\d{4}-", stacks, re.MULTILINE):
            found.append(str(path))
    return found
