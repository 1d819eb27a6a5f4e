"""Slurm: the job script, and `sbatch`."""

import dataclasses
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from gpt2dist.errors import RunError, UserError
from gpt2dist.submission.plan import Job, require_positive
from gpt2dist.submission.template import common_values, render

SAVE_SECONDS = 300
_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?)|(?P<clock>\d+(?::\d+){0,2})")


@dataclasses.dataclass(frozen=True)
class Request:
    """What only Slurm is asked.

    Attributes:
        partition: Where to run; None for the cluster's default, as below.
        account: Who pays.
        time: The limit, as Slurm writes it: minutes, H:MM:SS, D-HH …
        save_seconds: How long before that limit the run is asked to save and to stop.
        cpus_per_node: Cores; None asks for whole nodes.
        container_image: An image for pyxis (`srun --container-image`).
        options: Further options of sbatch, such as `--qos=high`.
    """

    partition: str | None = None
    account: str | None = None
    time: str | None = None
    save_seconds: int = SAVE_SECONDS
    cpus_per_node: int | None = None
    container_image: str | None = None
    options: Sequence[str] = ()

    def check(self) -> None:
        """Refuses what Slurm would, or what would leave no time to save.

        Raises:
            UserError: One option is wrong.
        """
        require_positive("--save-seconds", self.save_seconds, "the time to save before the limit")
        if self.cpus_per_node is not None:
            require_positive("--cpus-per-node", self.cpus_per_node, "the cores of each node")
        if self.time is not None and seconds(self.time) <= self.save_seconds:
            raise UserError(
                f"--time {self.time}: not above the {self.save_seconds} seconds kept for saving; give it "
                "more time, or set --save-seconds"
            )
        for option in self.options:
            if not re.fullmatch(r"--?[A-Za-z][^\n]*", option):
                raise UserError(f"--sbatch {option}: write an option of sbatch, as --sbatch=--qos=high")


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


def script(job: Job, request: Request, mounts: Iterable[Path] = ()) -> str:
    """The job script.

    Args:
        job: What is to run.
        request: What Slurm is asked.
        mounts: Directories that a container is to see.
    """
    directives = "\n".join(f"#SBATCH {each}" for each in _directives(job, request))
    return render(
        "slurm.sh",
        {**common_values(job), "directives": directives, "container": _container(job, request, mounts)},
    )


def _directives(job: Job, request: Request) -> Iterable[str]:
    quote = shlex.quote
    yield f"--job-name={quote(job.name)}"
    yield f"--nodes={job.nodes}"
    yield "--ntasks-per-node=1"
    yield f"--gpus-per-node={job.gpus_per_node}"
    yield f"--cpus-per-task={request.cpus_per_node}" if request.cpus_per_node else "--exclusive"
    for name in ("partition", "account", "time"):
        if value := getattr(request, name):
            yield f"--{name}={quote(value)}"
    yield f"--signal=B:USR1@{request.save_seconds}"
    yield "--requeue"
    yield "--open-mode=append"
    yield f"--chdir={quote(str(job.directory))}"
    yield f"--output={quote(log_pattern(job))}"
    yield from request.options


def log_pattern(job: Job) -> str:
    """Where Slurm writes; %j is the number of the job."""
    return str(job.record).replace("%", "%%") + "/job-%j.log"


def _container(job: Job, request: Request, mounts: Iterable[Path]) -> str:
    """Words of srun for pyxis, with a blank behind; empty without an image."""
    if not request.container_image:
        return ""
    seen = ",".join(f"{path}:{path}" for path in outermost([job.directory, job.run, *mounts]))
    words = [
        f"--container-image={request.container_image}",
        f"--container-mounts={seen}",
        f"--container-workdir={job.directory}",
    ]
    return shlex.join(words) + " "


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Those of the directories that lie in no other of them, sorted."""
    unique = sorted(set(paths))
    return [path for path in unique if not any(other in path.parents for other in unique)]


def sbatch(path: Path) -> list[str]:
    """The command that submits a script."""
    return ["sbatch", "--parsable", str(path)]


def submit(path: Path) -> int:
    """Submits a script; returns the number of the job.

    Raises:
        UserError: There is no sbatch here.
        RunError: sbatch refused.
    """
    command = sbatch(path)
    if not shutil.which(command[0]):
        raise UserError(f"no sbatch on this machine; on a login node of the cluster: {shlex.join(command)}")
    done = subprocess.run(command, capture_output=True, text=True)
    number, _, _ = done.stdout.strip().partition(";")  # behind it, the cluster's name
    if done.returncode or not number.isdecimal():
        raise RunError(
            f"sbatch refused {path} (exit code {done.returncode}): {(done.stderr or done.stdout).strip()}"
        )
    return int(number)


def how_to_follow(job: Job, number: int) -> str:
    """What to type to watch and to stop a job."""
    log = shlex.quote(str(job.record / f"job-{number}.log"))
    return f"""\
  squeue --jobs={number}                           where it stands
  tail -F {log}
  scancel {number}                                 stops it for good
  scancel --signal=TERM --batch {number}           saves, stops, and goes back into the queue"""
