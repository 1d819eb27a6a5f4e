"""This machine: run the job script in the background."""

import dataclasses
import shlex
import subprocess
from pathlib import Path
from typing import ClassVar

from gpt2dist.run.submissions import SCRIPT
from gpt2dist.submission.job import SchedulerJob, Work
from gpt2dist.submission.schedulers.base import Scheduler
from gpt2dist.submission.template import common_values, render


@dataclasses.dataclass(frozen=True)
class Local(Scheduler):
    """Scheduler that starts jobs as processes on this machine."""

    noun: ClassVar = "process"
    cannot: ClassVar = {
        "nodes": "which runs on this machine only",
        "tasks": "which starts a single job",
        "dask": "which runs on this machine only",
    }

    def check(self, work: Work) -> None:
        """Do nothing: there are no options to check."""

    def files(self, job: SchedulerJob) -> dict[str, str]:
        """Render the script."""
        launch = f"launch --nproc-per-node {job.gpus_per_node} " if job.gpus_per_node else ""
        return {SCRIPT: render("local.sh", {**common_values(job), "launch": launch})}

    def command(self, job: SchedulerJob) -> str:
        """Return the command that runs the job."""
        return shlex.join(["bash", str(job.script)])

    def submit(self, job: SchedulerJob) -> list[int]:
        """Start the script in a new session, which outlives this shell, and return its process id."""
        with _log(job).open("ab") as file:
            process = subprocess.Popen(
                ["bash", str(job.script)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        return [process.pid]

    def next_steps(self, job: SchedulerJob, ids: list[int]) -> str:
        """Return the commands that watch, stop and resume the job."""
        saved = "saves everything and stops" if job.work.config else "stops it; finished work is kept"
        return f"""\
  tail -F {shlex.quote(str(_log(job)))}
  kill {ids[0]}          {saved}
  {self.command(job)}          resumes it"""


def _log(job: SchedulerJob) -> Path:
    """Return the path of the job's log."""
    return job.submission_directory / "job.log"
