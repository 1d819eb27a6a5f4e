"""Read the files of a run, which other processes may write or remove at the same time.

A file that is missing, incomplete or unreadable counts as absent. A later read will find it.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

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
MOST_NESTING = 1000
"""Nesting up to which the C reader of YAML is safe."""
MOST_KNOWN = 100_000
"""Files whose content `unless_known` keeps."""
T = TypeVar("T")
_known: dict[tuple[str, str], tuple[tuple[int, int, int], Any]] = {}  # what `unless_known` read before
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


def unless_known(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Let a function of a file return its last result while the file is the same: for watching many runs.

    Results must not be changed. A file is the same if its size, its time of modification and its inode are.
    """

    def reading(path: Path) -> T:
        try:
            status = path.stat()
        except (OSError, ValueError):
            return read(path)
        same = status.st_size, status.st_mtime_ns, status.st_ino
        before = _known.get((read.__name__, str(path)))
        if before and before[0] == same:
            result: T = before[1]
            return result
        result = read(path)
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[read.__name__, str(path)] = same, result
        return result

    return reading


@unless_known
def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; return an empty one if that fails."""
    try:
        return dict(json_files.load(path, infinite=True))
    except (OSError, ValueError):
        return {}


def read_settings(run: Path) -> dict[str, dict[str, Any]]:
    """Read config.yaml by section, without validation; return an empty dict if that fails."""
    return _read_settings(RunDirectory(run).config)


@unless_known
def _read_settings(path: Path) -> dict[str, dict[str, Any]]:
    import yaml

    try:
        text = json_files.read_bytes(path, SETTINGS_BYTES)
        value = yaml.load(text, _loader(text))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {name: section for name, section in value.items() if isinstance(section, dict)}


def _loader(text: bytes) -> Any:
    """Return the reader in C, which is ten times faster, unless the nesting could crash it."""
    import yaml

    # A block is indented by more than the block around it, or is a list in a mapping.
    nesting = text.count(b"[") + text.count(b"{") + 2 * max(map(len, text.splitlines()), default=0)
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader) if nesting <= MOST_NESTING else yaml.SafeLoader


def number(value: Any) -> float | None:
    """Return `value` if it is a finite number, else None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the range of floats
        return None


def recent(run: Path) -> metrics_file.Recent:
    """Return what the last lines of metrics.jsonl say of the progress of a run."""
    return _recent(RunDirectory(run).metrics)


@unless_known
def _recent(path: Path) -> metrics_file.Recent:
    try:
        return metrics_file.read_recent(path)
    except (OSError, ValueError):
        return metrics_file.Recent({}, [], [])


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
