"""The record of every start of a run: starts/NNN with its configuration and environment. Does not import torch.

RUN/config.yaml and RUN/environment.json are those of the newest start. Each record includes the changes since the
previous start, so readers need no other record.
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist import atomic_io, json_files
from gpt2dist.errors import UserError
from gpt2dist.run.directory import RunDirectory

if TYPE_CHECKING:  # pydantic would slow `status` down
    from gpt2dist.config import Config

ENVIRONMENT = ("world_size", "gpt2dist", "git_commit", "python", "packages", "cuda", "gpu", "threads")
"""Keys of environment.json that are compared. A run may move between hosts without changing."""
OTHER_SECTIONS = ("run", "checkpoint", "evaluation", "monitoring")
"""Sections of the configuration that do not change the training; their changes are listed after the others."""

LATEST_TIME = 10**11
"""Later times than this, in seconds since 1970, count as unknown."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting that differs from the previous start.

    Attributes:
        key: Dotted key of the configuration, which an override takes, or of environment.json.
        before: Value of the previous start; None if it was not set.
        now: Value of this start; None if it is not set.
    """

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{_printable(self.key)} {_shown(self.before)} → {_shown(self.now)}"


@dataclasses.dataclass(frozen=True)
class Start:
    """Record of a start. Unknown values are None.

    Attributes:
        number: Number of the start, from 1.
        time: When it was recorded, in seconds since 1970.
        step: Optimizer steps that were done by then.
        world_size: Number of ranks.
        changes: What differs from the previous start.
    """

    number: int
    time: float | None
    step: int | None
    world_size: int | None
    changes: tuple[Change, ...]


def numbers(run: Path) -> list[int]:
    """Return the numbers of the recorded starts, in order."""
    try:
        return sorted(int(path.name) for path in RunDirectory(run).starts.iterdir() if path.name.isdecimal())
    except OSError:
        return []


def read(run: Path, number: int) -> Start:
    """Read the record of a start; missing or damaged values count as unknown."""
    facts = read_facts(RunDirectory(run).start(number))
    changed = facts.get("changed")
    pairs = changed.items() if isinstance(changed, dict) else ()
    changes = tuple(Change(key, *pair) for key, pair in pairs if isinstance(pair, list) and len(pair) == 2)
    seconds, step, size = (facts.get(key) for key in ("time", "step", "world_size"))
    return Start(
        number,
        seconds if isinstance(seconds, int | float) and 0 <= seconds < LATEST_TIME else None,
        step if isinstance(step, int) else None,
        size if isinstance(size, int) else None,
        changes,
    )


def last(run: Path) -> RunDirectory:
    """Return the directory with the configuration and the environment of the last start.

    For a run of version 0.1, which recorded no starts, it is the run directory.
    """
    known = numbers(run)
    return RunDirectory(run).start(known[-1]) if known else RunDirectory(run)


def changes_since(before: RunDirectory, config: "Config", facts: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return what differs from an earlier start: what changes the training, the rest, then the environment.

    Args:
        before: Result of `last`.
        config: Configuration of this start.
        facts: Content of environment.json of this start.

    Raises:
        UserError: The earlier configuration cannot be read.
    """
    if not before.config.exists():
        return ()
    if not json_files.is_file(before.config):
        raise UserError(f"{before.config}: not a regular file")
    changes = [*_changed_settings(before.config, config), *_changed_environment(read_facts(before), facts)]
    return tuple(changes)


def record(run: Path, config: "Config", facts: Mapping[str, Any], step: int, changes: tuple[Change, ...]) -> None:
    """Write the record of a start atomically. Call it with the run's lock held.

    Args:
        run: The run directory.
        config: The resolved configuration.
        facts: Content of environment.json.
        step: Optimizer steps done.
        changes: What differs from the previous start.

    Raises:
        OSError: The record cannot be written.
    """
    number = max(numbers(run), default=0) + 1
    final = RunDirectory(run).start(number)
    partial = RunDirectory(final.path.with_suffix(".partial"))
    shutil.rmtree(partial.path, ignore_errors=True)
    changed = {change.key: [change.before, change.now] for change in changes}
    try:
        partial.path.mkdir(parents=True)
        atomic_io.write_text(partial.config, config.to_yaml())
        started = {"time": round(time.time(), 3), "step": step, "changed": changed}
        atomic_io.write_json(partial.environment, started | dict(facts))
        atomic_io.rename_directory(partial.path, final.path)
    except OSError:
        shutil.rmtree(partial.path, ignore_errors=True)
        raise


def _changed_settings(path: Path, config: "Config") -> Iterator[Change]:
    from gpt2dist.config import read as read_config
    from gpt2dist.config.reading import flatten

    earlier, problems = read_config(path)  # with the defaults for keys that are newer than the file
    before, now = (flatten(each.model_dump(mode="json"), lists=True) for each in (earlier, config))
    unknown = tuple(f"{problem.key}." for problem in problems)
    for key in sorted({**now, **before}, key=lambda key: key.split(".")[0] in OTHER_SECTIONS):
        if before.get(key) != now.get(key) and not f"{key}.".startswith(unknown):
            yield Change(key, before.get(key), now.get(key))


def _changed_environment(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    from gpt2dist.config.reading import flatten

    old, new = (flatten({key: facts[key] for key in ENVIRONMENT if key in facts}) for facts in (before, now))
    for key, value in new.items():
        if key in old and old[key] != value:
            yield Change(key, old[key], value)


def read_facts(directory: RunDirectory) -> dict[str, Any]:
    """Return the content of environment.json; empty if it is missing or damaged."""
    try:
        return dict(json_files.load(directory.environment))
    except (OSError, ValueError):
        return {}


def recorded_origin(run: Path) -> Any:
    """Return the origin of the initial weights as earlier starts recorded it; empty if they were random.

    Raises:
        UserError: environment.json is damaged, and so is that of the last start.
    """
    directory = RunDirectory(run)
    now, before = read_facts(directory), read_facts(last(run))
    if not now and not before and os.path.lexists(directory.environment):
        json_files.require(
            directory.environment, "move it away; the run then loses the record of its initial model"
        )
    return now.get("init_from") or before.get("init_from") or {}


def _shown(value: Any) -> str:
    """Format a value as a person writes it in the configuration."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        return f"{Decimal(repr(value)).normalize():e}"  # 5e-4
    return _printable(str(value))


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)
