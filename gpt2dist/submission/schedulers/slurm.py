"""Slurm: the job scripts, and `sbatch`."""

import dataclasses
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from gpt2dist.errors import RunError, UserError
from gpt2dist.run.submissions import SCRIPT
from gpt2dist.submission.job import SchedulerJob, Work, require_positive
from gpt2dist.submission.template import common_values, render

SAVE_SECONDS = 300
FINISH = "finish.sh"
"""The script that puts together what the parts of an array have done."""
_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?)|(?P<clock>\d+(?::\d+){0,2})")


@dataclasses.dataclass(frozen=True)
class Slurm:
    """Submits jobs to Slurm.

    Attributes:
        partition: Where to run; None for the cluster's default, as below.
        account: Who pays.
        time: The limit, as Slurm writes it: minutes, H:MM:SS, D-HH …
        save_seconds: How long before that limit a job that can go on later is asked to stop; None for 300.
        cpus_per_node: Cores; None asks for whole nodes.
        container_image: An image for pyxis (`srun --container-image`).
        options: Further options of sbatch, such as `--qos=high`.
    """

    partition: str | None = None
    account: str | None = None
    time: str | None = None
    save_seconds: int | None = None
    cpus_per_node: int | None = None
    container_image: str | None = None
    options: Sequence[str] = ()

    name: ClassVar[str] = "slurm"

    def check(self, work: Work) -> None:
        """Refuses what Slurm would, or what would leave no time to save.

        Raises:
            UserError: One option is wrong.
        """
        if self.save_seconds is not None and not _stops_near_limit(work):
            raise UserError(
                "--save-seconds: training and `evaluate --watch` are asked to stop before the limit; leave it out"
            )
        kept = self._kept(work)
        if _stops_near_limit(work):
            require_positive("--save-seconds", kept, "the time to save before the limit")
        if self.cpus_per_node is not None:
            require_positive("--cpus-per-node", self.cpus_per_node, "the cores of each node")
        if self.time is not None and seconds(self.time) <= kept:
            raise UserError(
                f"--time {self.time}: not above the {kept} seconds kept for saving; give it more time, or set "
                "--save-seconds"
            )
        for option in self.options:
            if not re.match(r"--?[A-Za-z]", option):
                raise UserError(f"--sbatch {option}: write an option of sbatch, as --sbatch=--qos=high")

    def _kept(self, work: Work) -> int:
        """Seconds before the limit at which the job is asked to stop."""
        if not _stops_near_limit(work):
            return 0
        return SAVE_SECONDS if self.save_seconds is None else self.save_seconds

    def files(self, job: SchedulerJob) -> dict[str, str]:
        """The scripts, by their names."""
        if job.work.verb != "preprocess":
            return {SCRIPT: self._render("launch.sh", job, SCRIPT, "job-%j")}
        if job.dask:
            return {SCRIPT: self._render("dask.sh", job, SCRIPT, "job-%j")}
        if job.tasks == 1:
            return {SCRIPT: self._render("preprocess.sh", job, SCRIPT, "job-%j", part="")}
        part = f' --task-index "$SLURM_ARRAY_TASK_ID" --task-count {job.tasks}'
        array = f"--array=0-{job.tasks - 1}"
        return {
            SCRIPT: self._render("preprocess.sh", job, SCRIPT, "job-%A-%a", array, part=part),
            FINISH: self._render("preprocess.sh", job, FINISH, "finish-%j", part=" --finish"),
        }

    def _render(self, template: str, job: SchedulerJob, file: str, log: str, *options: str, **values: str) -> str:
        """A script.

        Args:
            template: Its template.
            job: What it does.
            file: Its name.
            log: What its log is called, in Slurm's patterns.
            options: Further directives.
            values: Further values of the template.
        """
        condition = ["--dependency=afterok:JOB"] if file == FINISH else []
        values = {
            **common_values(job),
            **values,
            "file": file,
            "by_hand": shlex.join(["sbatch", *condition, str(job.record / file)]),
            "container": self._container(job),
            "directives": "\n".join(f"#SBATCH {each}" for each in self._directives(job, log, options)),
        }
        values["common"] = render("slurm/common.sh", values).rstrip()
        values["ending"] = render(f"slurm/ending-{job.work.verb}.sh", values).rstrip()
        return render(f"slurm/{template}", values)

    def _directives(self, job: SchedulerJob, log: str, options: Iterable[str]) -> Iterable[str]:
        quote = shlex.quote
        yield f"--job-name={quote(job.work.name)}"
        yield f"--nodes={job.nodes}"
        yield "--ntasks-per-node=1"
        if job.gpus_per_node:
            yield f"--gpus-per-node={job.gpus_per_node}"
        yield f"--cpus-per-task={self.cpus_per_node}" if self.cpus_per_node else "--exclusive"
        for name in ("partition", "account", "time"):
            if value := getattr(self, name):
                yield f"--{name}={quote(value)}"
        if _stops_near_limit(job.work):
            yield f"--signal=B:USR1@{self._kept(job.work)}"
        yield "--requeue"
        yield "--open-mode=append"
        yield f"--chdir={quote(str(job.directory))}"
        yield f"--output={quote(log_pattern(job, log))}"
        yield from options
        yield from self.options

    def _container(self, job: SchedulerJob) -> str:
        """Words of srun for pyxis, with a blank behind; empty without an image."""
        if not self.container_image:
            return ""
        seen = ",".join(f"{path}:{path}" for path in outermost([job.directory, *job.work.paths]))
        words = [
            f"--container-image={self.container_image}",
            f"--container-mounts={seen}",
            f"--container-workdir={job.directory}",
        ]
        return shlex.join(words) + " "

    def command(self, job: SchedulerJob) -> str:
        """The command that submits the job."""
        first = shlex.join(["sbatch", "--parsable", str(job.script)])
        if job.tasks == 1:
            return first
        return f'sbatch --parsable --dependency=afterok:"$({first})" {DROPPED} {shlex.quote(_finish(job))}'

    def submit(self, job: SchedulerJob) -> list[int]:
        """Submits the job; returns its number, and that of the job that finishes an array.

        Raises:
            UserError: There is no sbatch here.
            RunError: sbatch refused.
        """
        if not shutil.which("sbatch"):
            raise UserError(f"no sbatch on this machine; on a login node of the cluster: {self.command(job)}")
        number = _sbatch(str(job.script))
        if job.tasks == 1:
            return [number]
        try:
            return [number, _sbatch(f"--dependency=afterok:{number}", DROPPED, _finish(job))]
        except RunError as error:
            raise RunError(f"{error}; job {number} is submitted and does the parts") from None

    def how_to_follow(self, job: SchedulerJob, numbers: list[int]) -> str:
        """What to type to watch and to stop a job."""
        number, *finish = numbers
        if finish:
            words, logs = f"{number} {finish[0]}", [f"job-{number}-*.log", f"finish-{finish[0]}.log"]
        else:
            words, logs = str(number), [f"job-{number}.log"]
        where = " ".join(f"{shlex.quote(str(job.record))}/{log}" for log in logs)
        lines = [
            f"  squeue --jobs={words.replace(' ', ',')}                           where it stands",
            f"  tail -F {where}",
            f"  scancel {words}                                 stops it for good",
        ]
        if job.work.verb != "preprocess":
            lines.append(f"  scancel --signal=TERM --batch {number}           stops it, to go on from the queue")
        if finish:
            lines.append(
                f"  the dataset is put together by job {finish[0]} when all parts are done. If a part fails, "
                "Slurm drops that\n  job: submit the same again, and only what is missing is done"
            )
        return "\n".join(lines)


DROPPED = "--kill-on-invalid-dep=yes"
"""A job whose condition cannot come about any more leaves the queue."""


def _finish(job: SchedulerJob) -> str:
    return str(job.record / FINISH)


def _stops_near_limit(work: Work) -> bool:
    """Whether it is asked to stop before the time limit, to go on in another start."""
    return work.config is not None or work.endless


def _sbatch(*words: str) -> int:
    """Submits a script; returns the number of the job."""
    done = subprocess.run(["sbatch", "--parsable", *words], capture_output=True, text=True)
    number, _, _ = done.stdout.strip().partition(";")  # behind it, the cluster's name
    if done.returncode or not number.isdecimal():
        raise RunError(
            f"sbatch refused {words[-1]} (exit code {done.returncode}): {(done.stderr or done.stdout).strip()}"
        )
    return int(number)


def log_pattern(job: SchedulerJob, name: str) -> str:
    """Where Slurm writes; `name` may hold its patterns, such as %j for the number of the job."""
    return str(job.record).replace("%", "%%") + f"/{name}.log"


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Those of the directories that lie in no other of them, sorted."""
    unique = sorted(set(paths))
    return [path for path in unique if not any(other in path.parents for other in unique)]


def seconds(time: str) -> int:
    """Seconds of a time limit as Slurm writes it: M, M:SS, H:MM:SS, D-H, D-H:MM or D-H:MM:SS.

    Raises:
        UserError: It is none.
    """
    match = _TIME.fullmatch(time)
    if not match:
        raise UserError(f"--time {time}: write minutes, H:MM:SS, or D-HH:MM:SS (days, hours, minutes, seconds)")
    if match["clock"] is None:
        days, hours, minutes, rest = (int(match[name] or 0) for name in ("days", "dh", "dm", "ds"))
        return ((days * 24 + hours) * 60 + minutes) * 60 + rest
    parts = [int(part) for part in match["clock"].split(":")]
    if len(parts) < 3:  # M or M:SS
        return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)
    return (parts[0] * 60 + parts[1]) * 60 + parts[2]
