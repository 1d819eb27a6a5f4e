"""What a job asks for, whatever the scheduler."""

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
"""The verbs that can be submitted, and what that is called."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What a job does: a verb with its own words, which it has checked.

    Attributes:
        verb: A key of `DOES`.
        name: What the scheduler shows.
        words: Behind the verb; of training none, which gets the configuration in its record.
        records: The directory in which each submission has its own.
        paths: Files and directories that are read or written, absolute: a container must see them.
        config: Of a training run.
        run: The directory of a training run.
        endless: Whether it has no end of its own, as `evaluate --watch`.
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
    """Work, and where it is to be done.

    Attributes:
        work: What is done.
        record: Where script, configuration and log of this submission are.
        directory: Where the job works: relative paths begin there.
        python: The interpreter that has gpt2dist.
        nodes: How many.
        gpus_per_node: On each, one rank per GPU; 0 for work without ranks.
        environment: Variables to set.
        tasks: Parts that preprocessing is divided into, each a job of its own.
        dask: Whether preprocessing is done by a Dask cluster on those nodes.
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
        """One line on what it is."""
        work = f"{self.work.name}: {DOES[self.work.verb]}"
        if self.gpus_per_node:
            ranks = self.nodes * self.gpus_per_node
            return f"{work} on {self.nodes} × {self.gpus_per_node} = {ranks} ranks (nodes × GPUs)"
        if self.dask:
            return f"{work} by Dask on {self.nodes} node{'s' * (self.nodes > 1)}"
        return f"{work} in {self.tasks} parts" if self.tasks > 1 else work

    @property
    def words(self) -> list[str]:
        """The verb with its words."""
        config = [str(self.record / CONFIG)] if self.work.config else []
        return [self.work.verb, *config, *self.work.words]

    @property
    def script(self) -> Path:
        """The rendered script."""
        return self.record / SCRIPT


def parse_environment(words: Iterable[str]) -> dict[str, str]:
    """Takes `NAME=VALUE` apart.

    Raises:
        UserError: A word is not of that form.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(f"--env {word}: write NAME=VALUE, where NAME is of letters, digits and '_'")
        found[name] = value
    return found


def require_positive(option: str, number: int, meaning: str) -> None:
    """Refuses what is no count.

    Raises:
        UserError: It is below 1.
    """
    if number < 1:
        raise UserError(f"{option} {number}: must be at least 1, {meaning}")


UNFIT = {"Cc": "a control character", "Cs": "no UTF-8", "Zl": "a line separator", "Zp": "a paragraph separator"}
"""Categories of Unicode that no script and no manifest may hold: a line break ends a comment or a directive."""


def require_fit_for_scripts(
    work: Work, scheduler: Any, environment: Mapping[str, str], directory: Path, python: str
) -> None:
    """Refuses control characters in whatever reaches a job script or a manifest. Nothing is written before.

    Quoting is not enough: scripts have paths in comments and directives, where a newline begins a command.

    Args:
        work: What is done. Its configuration is left out, since YAML escapes what a text may hold.
        scheduler: A dataclass of the scheduler's options.
        environment: Variables to set in the job.
        directory: Where the job works.
        python: Its interpreter.

    Raises:
        UserError: Names the first such value and character.
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
    """The texts and paths in a value."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
