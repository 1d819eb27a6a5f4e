"""Scheduler-independent description of a job."""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt2dist.config import Config
from gpt2dist.errors import UserError
from gpt2dist.run.submissions import CONFIG, SCRIPT

DOES = {"train": "training", "evaluate": "evaluation", "preprocess": "preprocessing"}
"""Commands that can be submitted → name of the activity."""
UNFIT = {"Cc": "a control character", "Cs": "no UTF-8", "Zl": "a line separator", "Zp": "a paragraph separator"}
"""Unicode categories that scripts and manifests must not contain: a line break ends a comment or a directive."""


@dataclasses.dataclass(frozen=True)
class Work:
    """The gpt2dist command that a job runs, with arguments that the command has checked.

    Attributes:
        verb: The command, a key of `DOES`.
        name: Name of the job in the scheduler.
        words: Arguments after the verb; empty for training, which uses the configuration in its record.
        records: Directory in which each submission gets its own subdirectory.
        paths: Absolute paths of files and directories to read or write, which a container must mount.
        config: Configuration of a training run; None for other work.
        run: Directory of a training run; None for other work.
        endless: Whether the work runs until it is stopped, like `evaluate --watch`.
    """

    verb: str
    name: str
    words: tuple[str, ...]
    records: Path
    paths: tuple[Path, ...]
    config: Config | None = None
    run: Path | None = None
    endless: bool = False


@dataclasses.dataclass(frozen=True)
class SchedulerJob:
    """Work and the resources to run it on.

    Attributes:
        work: The work to do.
        record: Directory with the script, configuration and log of this submission.
        directory: Working directory of the job, to which relative paths refer.
        python: Python interpreter that has gpt2dist installed.
        nodes: Number of nodes.
        gpus_per_node: Number of GPUs on each node, with one rank per GPU; 0 for work without ranks.
        environment: Environment variables to set.
        tasks: Number of parts that preprocessing is divided into, each a separate job.
        dask: Whether a Dask cluster on the nodes does the preprocessing.
    """

    work: Work
    record: Path
    directory: Path
    python: str
    nodes: int = 1
    gpus_per_node: int = 0
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tasks: int = 1
    dask: bool = False

    @property
    def title(self) -> str:
        """A one-line description of the job."""
        work = f"{self.work.name}: {DOES[self.work.verb]}"
        if self.gpus_per_node:
            ranks = self.nodes * self.gpus_per_node
            return f"{work} on {self.nodes} × {self.gpus_per_node} = {ranks} ranks (nodes × GPUs)"
        if self.dask:
            return f"{work} by Dask on {self.nodes} node{'s' * (self.nodes > 1)}"
        return f"{work} in {self.tasks} parts" if self.tasks > 1 else work

    @property
    def words(self) -> list[str]:
        """The verb and its arguments."""
        config = [str(self.record / CONFIG)] if self.work.config else []
        return [self.work.verb, *config, *self.work.words]

    @property
    def script(self) -> Path:
        """The path of the rendered script."""
        return self.record / SCRIPT


def parse_environment(words: Iterable[str]) -> dict[str, str]:
    """Parse `NAME=VALUE` words into a dictionary.

    Raises:
        UserError: A word does not have that form.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(f"--env {word}: write NAME=VALUE, where NAME is of letters, digits and '_'")
        found[name] = value
    return found


def require_positive(option: str, number: int, meaning: str) -> None:
    """Check that the number given for an option is at least 1.

    Raises:
        UserError: The number is below 1.
    """
    if number < 1:
        raise UserError(f"{option} {number}: must be at least 1, {meaning}")


def require_fit_for_scripts(
    work: Work, scheduler: Any, environment: Mapping[str, str], directory: Path, python: str
) -> None:
    """Check, before anything is written, that no value for a job script or manifest has control characters.

    Quoting is not enough: scripts have paths in comments and directives, where a newline starts a command.

    Args:
        work: The work. Its configuration is not checked, since YAML escapes such characters.
        scheduler: A dataclass of the scheduler's options.
        environment: Environment variables to set in the job.
        directory: Working directory of the job.
        python: Python interpreter of the job.

    Raises:
        UserError: A value has a character of a category in `UNFIT`; the message names the first.
    """
    given: dict[str, Any] = {f"--env {name}": value for name, value in environment.items()}
    given |= {_option(field.name): getattr(scheduler, field.name) for field in dataclasses.fields(scheduler)}
    given |= {"run.output_dir": work.run, "the name of the job": work.name, work.verb: work.words}
    given |= {"a path of the job": (work.records, *work.paths)}
    given |= {"the working directory": directory, "the interpreter": python}
    for label, value in given.items():
        for text in _texts(value):
            unfit = next((each for each in text if unicodedata.category(each) in UNFIT), None)
            if unfit:
                kind = UNFIT[unicodedata.category(unfit)]
                raise UserError(
                    f"{label}: {text!r} has {kind} ({unfit!r}), which a job script cannot hold; rename it, or "
                    "write it in another way"
                )


def _option(field: str) -> str:
    return "--sbatch" if field == "options" else f"--{field.replace('_', '-')}"


def _texts(value: Any) -> Iterator[str]:
    """Yield the strings and paths in a value."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
