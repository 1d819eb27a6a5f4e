"""A scheduler as another package would have it: PBS, whose `qsub` takes a script and prints the id of the job."""

import dataclasses
import shlex
import subprocess
from typing import ClassVar

from gpt2dist.errors import RunError
from gpt2dist.submission.job import SchedulerJob, Work, require_positive
from gpt2dist.submission.schedulers.base import CPUS_PER_NODE, Scheduler, option


@dataclasses.dataclass(frozen=True)
class PBS(Scheduler):
    """Scheduler that submits jobs of one node to PBS."""

    noun: ClassVar = "batch job"
    cannot: ClassVar = {
        "preprocess": "whose nodes are kept for training",
        "nodes": "which has one node for each job",
        "tasks": "which has no arrays",
        "dask": "which has one node for each job",
    }

    cpus_per_node: int | None = option(**CPUS_PER_NODE)
    queue: str | None = option(metavar="NAME", help="the queue of PBS")
    time: int | None = option(type=int, metavar="HOURS", help="hours of walltime (default: 24)")

    def check(self, work: Work) -> None:
        require_positive("--time", self.time or 24, "the hours of walltime")

    def files(self, job: SchedulerJob) -> dict[str, str]:
        queue = f"#PBS -q {self.queue}\n" if self.queue else ""
        resources = f"select=1:ngpus={job.gpus_per_node}"
        launch = [
            job.python,
            "-m",
            "gpt2dist",
            "launch",
            "--nproc-per-node",
            str(job.gpus_per_node),
            *job.arguments,
        ]
        return {
            "job.pbs": f"#!/bin/sh\n#PBS -N {job.work.name}\n{queue}#PBS -l {resources}\n"
            f"#PBS -l walltime={self.time or 24}:00:00\n"
            f"cd {shlex.quote(str(job.working_directory))}\n{shlex.join(launch)}\n"
        }

    def command(self, job: SchedulerJob) -> str:
        return shlex.join(["qsub", str(job.submission_directory / "job.pbs")])

    def submit(self, job: SchedulerJob) -> list[str]:
        done = subprocess.run(shlex.split(self.command(job)), capture_output=True, text=True)
        if done.returncode:
            raise RunError(f"qsub refused the job: {done.stderr.strip()}")
        return done.stdout.split()

    def next_steps(self, job: SchedulerJob, ids: list[str]) -> str:
        return f"  qstat {ids[0]}\n  qdel {ids[0]}"
