"""What a job asks for, whatever the scheduler."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from gpt2dist.config import Config
from gpt2dist.errors import UserError

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
class Job:
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
    """

    work: Work
    record: Path
    directory: Path
    python: str
    nodes: int = 1
    gpus_per_node: int = 0
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tasks: int = 1

    @property
    def title(self) -> str:
        """One line on what it is."""
        work = f"{self.work.name}: {DOES[self.work.verb]}"
        if self.gpus_per_node:
            ranks = self.nodes * self.gpus_per_node
            return f"{work} on {self.nodes} × {self.gpus_per_node} = {ranks} ranks (nodes × GPUs)"
        return f"{work} in {self.tasks} parts" if self.tasks > 1 else work

    @property
    def words(self) -> list[str]:
        """The verb with its words."""
        config = [str(self.record / "config.yaml")] if self.work.config else []
        return [self.work.verb, *config, *self.work.words]

    @property
    def script(self) -> Path:
        """The rendered script."""
        return self.record / "job.sh"


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
        if "\n" in value:
            raise UserError(f"--env {name}: its value is of several lines; let the job read it from a file")
        found[name] = value
    return found


def require_positive(option: str, number: int, meaning: str) -> None:
    """Refuses what is no count.

    Raises:
        UserError: It is below 1.
    """
    if number < 1:
        raise UserError(f"{option} {number}: must be at least 1, {meaning}")
