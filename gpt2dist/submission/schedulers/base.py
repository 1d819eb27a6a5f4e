"""What a scheduler does for `gpt2dist submit`."""

from typing import Protocol

from gpt2dist.submission.job import SchedulerJob, Work


class Scheduler(Protocol):
    """A scheduler that a job can be submitted to."""

    @property
    def name(self) -> str:
        """The value of --scheduler."""

    def check(self, work: Work) -> None:
        """Raise a UserError if this scheduler cannot do the work."""

    def files(self, job: SchedulerJob) -> dict[str, str]:
        """Return the texts of the rendered files, by file name."""

    def command(self, job: SchedulerJob) -> str:
        """Return the command that submits those files."""

    def submit(self, job: SchedulerJob) -> list[int] | list[str]:
        """Submit the files; return the scheduler's id of the job, then those of the jobs that follow it."""

    def how_to_follow(self, job: SchedulerJob, names: list) -> str:
        """Return the commands that watch and stop the job."""
