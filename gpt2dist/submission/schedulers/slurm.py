"""Slurm: render the job scripts, and submit them with `sbatch`."""

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
"""Script that merges the results of an array's tasks."""
_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?)|(?P<clock>\d+(?::\d+){0,2})")
DROPPED = "--kill-on-invalid-dep=yes"
"""Option that removes a job from the queue when its dependency can no longer be met."""


@dataclasses.dataclass(frozen=True)
class Slurm:
    """Scheduler that submits jobs to Slurm.

    Attributes:
        partition: Partition to run in; None for the cluster's default.
        account: Account to charge; None for the cluster's default.
        time: Time limit in Slurm's notation: minutes, H:MM:SS, D-HH …; None for the cluster's default.
        save_seconds: Seconds before that limit at which a job that can resume later must stop; None for 300.
        cpus_per_node: Number of cores per node; None for whole nodes.
        container_image: Image for pyxis (`srun --container-image`).
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
        """Check the options, and that the time limit leaves time to save.

        Raises:
            UserError: An option is invalid, or the time limit leaves no time to run before saving.
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
        """Return how many seconds before the limit the job is asked to stop; 0 if it is not."""
        if not _stops_near_limit(work):
            return 0
        return SAVE_SECONDS if self.save_seconds is None else self.save_seconds

    def files(self, job: SchedulerJob) -> dict[str, str]:
        """Return the scripts by file name."""
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
        """Render a script.

        Args:
            template: Name of the template.
            job: The job.
            file: File name of the script.
            log: Name of the log, which may contain Slurm's patterns.
            options: Further options to write as directives.
            values: Further values for the template.
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
        """Return srun's options for pyxis, with a trailing space; empty without an image."""
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
        """Return the command that submits the job."""
        first = shlex.join(["sbatch", "--parsable", str(job.script)])
        if job.tasks == 1:
            return first
        return f'sbatch --parsable --dependency=afterok:"$({first})" {DROPPED} {shlex.quote(_finish(job))}'

    def submit(self, job: SchedulerJob) -> list[int]:
        """Submit the job, and return its id, followed for an array by the id of the job that merges the results.

        Raises:
            UserError: sbatch is not installed.
            RunError: sbatch failed.
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
        """Return the commands that watch and stop a job."""
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
            lines.append(
                f"  scancel --signal=TERM --batch {number}           stops it and puts it back into the queue"
            )
        if finish:
            lines.append(
                f"  the dataset is put together by job {finish[0]} when all parts are done. If a part fails, "
                "Slurm drops that\n  job: submit the same again, and only what is missing is done"
            )
        return "\n".join(lines)


def _finish(job: SchedulerJob) -> str:
    return str(job.record / FINISH)


def _stops_near_limit(work: Work) -> bool:
    """Return whether the job is asked to stop before the time limit, to resume when it is requeued."""
    return work.config is not None or work.endless


def _sbatch(*words: str) -> int:
    """Submit a script, and return the job id."""
    done = subprocess.run(["sbatch", "--parsable", *words], capture_output=True, text=True)
    number, _, _ = done.stdout.strip().partition(";")  # the cluster's name may follow
    if done.returncode or not number.isdecimal():
        raise RunError(
            f"sbatch refused {words[-1]} (exit code {done.returncode}): {(done.stderr or done.stdout).strip()}"
        )
    return int(number)


def log_pattern(job: SchedulerJob, name: str) -> str:
    """Return the path of a log for Slurm; `name` may contain its patterns, such as %j for the job id."""
    return str(job.record).replace("%", "%%") + f"/{name}.log"


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Return the sorted paths that are not inside another of the paths."""
    unique = sorted(set(paths))
    return [path for path in unique if not any(other in path.parents for other in unique)]


def seconds(time: str) -> int:
    """Return the seconds of a time limit in Slurm's notation: M, M:SS, H:MM:SS, D-H, D-H:MM or D-H:MM:SS.

    Raises:
        UserError: The text has none of these forms.
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
