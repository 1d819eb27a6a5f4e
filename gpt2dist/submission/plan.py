"""What a job asks for, whatever the scheduler."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from gpt2dist.errors import UserError


@dataclasses.dataclass(frozen=True)
class Job:
    """A training job.

    Attributes:
        name: Of the run.
        run: The run directory.
        record: Where script, configuration and log of this submission are.
        directory: Where the job works: paths in the configuration begin there.
        python: The interpreter that has gpt2dist.
        nodes: How many.
        gpus_per_node: On each, one rank per GPU.
        environment: Variables to set.
    """

    name: str
    run: Path
    record: Path
    directory: Path
    python: str
    nodes: int
    gpus_per_node: int
    environment: Mapping[str, str]

    @property
    def world_size(self) -> int:
        """Ranks of the run."""
        return self.nodes * self.gpus_per_node

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
