"""Local machine: run the job script in the background."""

import dataclasses
import shlex
import subprocess
from pathlib import Path
from typing import ClassVar

from gpt2dist.run.submissions import SCRIPT
from gpt2dist.submission.job import SchedulerJob, Work
from gpt2dist.submission.template import common_values, render


@dataclasses.dataclass(frozen=True)
class Local:
    """Scheduler that starts jobs as processes on this machine."""

    name: ClassVar[str] = "local"

    def check(self, work: Work) -> None:
        """Do nothing: there are no options that could be wrong."""

    def files(self, job: SchedulerJob) -> dict[str, str]:
        """Return the file to write: the name of the script → its text."""
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

    def how_to_follow(self, job: SchedulerJob, numbers: list[int]) -> str:
        """Return the commands that watch, stop and resume the job."""
        saved = "everything saved" if job.work.config else "what is done kept"
        return f"""\
  tail -F {shlex.quote(str(_log(job)))}
  kill {numbers[0]}          stops it with {saved}
  {self.command(job)}          goes on"""


def _log(job: SchedulerJob) -> Path:
    """Return the path of the job's log."""
    return job.record / "job.log"
