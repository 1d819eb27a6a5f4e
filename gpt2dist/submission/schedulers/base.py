"""What a scheduler provides, and the options that several of them have.

`gpt2dist submit --help` imports every scheduler of ours, so these modules import pydantic, yaml and the like only
inside their methods.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from gpt2dist.submission.job import SchedulerJob, Work

CONTAINER_IMAGE = {"metavar": "IMAGE", "help": "image to run in; its python has gpt2dist (slurm: through pyxis)"}
CPUS_PER_NODE = {"type": int, "metavar": "C", "help": "cores of each node (slurm: whole nodes by default)"}
SAVE_SECONDS = {
    "type": int,
    "metavar": "S",
    "help": "time to save, before the time limit or once a pod is asked to end (default: 300)",
}
"""Options for `option(**…)` of schedulers that have them, under the same names."""


def option(**declaration: Any) -> Any:
    """Declare a field of a scheduler as an option of `gpt2dist submit`, named as the field: `--cpus-per-node`.

    The value is None if the option is not given.

    Args:
        declaration: Keyword arguments of `ArgumentParser.add_argument`, such as `type`, `metavar` and `help`.
    """
    return dataclasses.field(default=None, metadata={"argparse": declaration})


class Scheduler(Protocol):
    """A scheduler: a frozen dataclass that inherits from this class.

    Its fields are its options of `gpt2dist submit`, each declared by `option`. That command calls `check` and
    `check_resources`, then `files`, writes those files, and calls `command`, `submit` and `next_steps`. A dry run
    ends after `command`.

    Attributes:
        noun: What a submitted job is, for messages.
        cannot: What jobs of this scheduler cannot do → why, as a clause that begins with "which". The keys are
            "train", "evaluate", "preprocess", "nodes" (run on several nodes), "tasks" (preprocess as an array of
            jobs) and "dask" (preprocess by a Dask cluster on their nodes). `files` must heed the attributes of
            the job of the same names, unless they are listed here.
    """

    noun: ClassVar[str] = "job"
    cannot: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def check(self, work: Work) -> None:
        """Check the options, and that jobs can do the work. Nothing has been written yet.

        Raises:
            UserError: An option is invalid, or jobs cannot do the work; the message has a fix.
        """

    def check_resources(self, job: SchedulerJob) -> None:
        """Check the options together with the nodes and GPUs of the job. Nothing has been written yet.

        Args:
            job: The job. Its submission directory does not exist yet, and will have another name.

        Raises:
            UserError: The options and the resources contradict each other; the message has a fix.
        """

    @abstractmethod
    def files(self, job: SchedulerJob) -> dict[str, str]:
        """Render the files of a job.

        Its script changes to `job.working_directory`, sets the variables of `job.environment`, and runs
        `python -m gpt2dist` with `job.arguments` by `job.python`. Where `job.gpus_per_node` is not 0, it starts
        the ranks: `python -m gpt2dist launch --nproc-per-node G …` with `job.arguments`, on each node. For an
        array, job I of N adds `--task-index I --task-count N`, and a last job `--finish`.
        `template.common_values` has these values quoted for bash.

        Returns:
            Text of each file, by its name in `job.submission_directory`. Those that begin with #! are executable.
        """

    @abstractmethod
    def command(self, job: SchedulerJob) -> str:
        """Return the shell command that submits those files by hand."""

    @abstractmethod
    def submit(self, job: SchedulerJob) -> list[int] | list[str]:
        """Submit those files, which have been written.

        Returns:
            The scheduler's id of the job, then the ids of the jobs that depend on it.

        Raises:
            UserError: The scheduler is not installed on this machine.
            RunError: The scheduler refused the job.
        """

    @abstractmethod
    def next_steps(self, job: SchedulerJob, ids: list) -> str:
        """Return the commands that watch, stop and resume a submitted job, one a line, each with what it does."""
