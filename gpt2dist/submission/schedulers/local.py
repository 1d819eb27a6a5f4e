"""This machine: the script, started in the background."""

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
    """Starts jobs as processes of this machine."""

    name: ClassVar[str] = "local"

    def check(self, work: Work) -> None:
        """Nothing can be wrong."""

    def files(self, job: SchedulerJob) -> dict[str, str]:
        """The script, by its name."""
        launch = f"launch --nproc-per-node {job.gpus_per_node} " if job.gpus_per_node else ""
        return {SCRIPT: render("local.sh", {**common_values(job), "launch": launch})}

    def command(self, job: SchedulerJob) -> str:
        """The command that runs it."""
        return shlex.join(["bash", str(job.script)])

    def submit(self, job: SchedulerJob) -> list[int]:
        """Starts it in a session of its own, which outlives this shell; returns the process id."""
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
        """What to type to watch and to stop it."""
        saved = "everything saved" if job.work.config else "what is done kept"
        return f"""\
  tail -F {shlex.quote(str(_log(job)))}
  kill {numbers[0]}          stops it with {saved}
  {self.command(job)}          goes on"""


def _log(job: SchedulerJob) -> Path:
    """Where what it says goes."""
    return job.record / "job.log"
