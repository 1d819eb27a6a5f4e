"""Description of a job, the same for all schedulers."""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist.errors import UserError
from gpt2dist.run.submissions import CONFIG, SCRIPT

if TYPE_CHECKING:  # importing pydantic would slow down `submit --help`
    from gpt2dist.config import Config

ACTIVITIES = {"train": "training", "evaluate": "evaluation", "preprocess": "preprocessing"}
"""Verbs that can be submitted → what a job of each does, for its title."""
UNFIT = {
    "Cc": "a control character",
    "Cs": "a byte that is not UTF-8",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}
"""Unicode categories that a script or manifest must not contain, and their names. After a line break, the rest of
a comment or directive would run as a command."""


@dataclasses.dataclass(frozen=True)
class Work:
    """The verb that a job runs, with arguments that the verb has checked.

    Attributes:
        verb: The verb, a key of `ACTIVITIES`.
        name: Name of the job in the scheduler.
        arguments: Arguments of the verb; empty for training, which reads config.yaml of its submission.
        submissions_directory: Directory in which each submission gets its own subdirectory.
        paths: Absolute paths of files and directories that the job reads or writes; a container must mount them.
        config: Configuration of a training run; None for other work.
        run: Directory of a training run; None for other work.
        endless: Whether the work runs until it is stopped, as `evaluate --watch` does.
    """

    verb: str
    name: str
    arguments: tuple[str, ...]
    submissions_directory: Path
    paths: tuple[Path, ...]
    config: "Config | None" = None
    run: Path | None = None
    endless: bool = False


@dataclasses.dataclass(frozen=True)
class SchedulerJob:
    """Work and the resources to run it on.

    Attributes:
        work: The work to do.
        submission_directory: Directory with the script, configuration and log of this submission.
        working_directory: Directory that the job starts in, to which relative paths refer.
        python: Python interpreter that has gpt2dist installed.
        nodes: Number of nodes.
        gpus_per_node: GPUs of each node, with one rank per GPU; 0 for preprocessing, which has no ranks.
        environment: Environment variables to set.
        tasks: Number of jobs that preprocessing is divided into.
        dask: Whether a Dask cluster on the nodes does the preprocessing.
    """

    work: Work
    submission_directory: Path
    working_directory: Path
    python: str
    nodes: int = 1
    gpus_per_node: int = 0
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tasks: int = 1
    dask: bool = False

    @property
    def title(self) -> str:
        """A one-line description of the job."""
        work = f"{self.work.name}: {ACTIVITIES[self.work.verb]}"
        if self.gpus_per_node:
            ranks = self.nodes * self.gpus_per_node
            return f"{work} on {self.nodes} × {self.gpus_per_node} = {ranks} ranks (nodes × GPUs)"
        if self.dask:
            return f"{work} by Dask on {self.nodes} node{'s' * (self.nodes > 1)}"
        return f"{work} in {self.tasks} parts" if self.tasks > 1 else work

    @property
    def arguments(self) -> list[str]:
        """The arguments of `python -m gpt2dist`: the verb and its own."""
        config = [str(self.submission_directory / CONFIG)] if self.work.config else []
        return [self.work.verb, *config, *self.work.arguments]

    @property
    def script(self) -> Path:
        """The path of the rendered script."""
        return self.submission_directory / SCRIPT


def parse_environment(words: Iterable[str]) -> dict[str, str]:
    """Parse `NAME=VALUE` words into a dictionary.

    Raises:
        UserError: A word does not have that form.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(f"--env {word}: write NAME=VALUE, where NAME consists of letters, digits and '_'")
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
    """Check that no value for a job script or manifest has control characters. Call it before writing anything.

    Quoting is not enough: scripts have paths in comments and directives, where a newline would start a command.

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
    given |= {
        f"--{field.name.replace('_', '-')}": getattr(scheduler, field.name)
        for field in dataclasses.fields(scheduler)
    }
    given |= {"run.output_dir": work.run, "the name of the job": work.name, work.verb: work.arguments}
    given |= {"a path of the job": (work.submissions_directory, *work.paths)}
    given |= {"the working directory": directory, "the interpreter": python}
    for label, value in given.items():
        for text in _texts(value):
            unfit = next((each for each in text if unicodedata.category(each) in UNFIT), None)
            if unfit:
                kind = UNFIT[unicodedata.category(unfit)]
                raise UserError(
                    f"{label}: {text!r} has {kind} ({unfit!r}), which a job script must not contain; rename "
                    "it, or write it without"
                )


def _texts(value: Any) -> Iterator[str]:
    """Yield the strings and paths in a value."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
