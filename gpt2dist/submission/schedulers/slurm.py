"""Slurm: render the job scripts, and submit them with `sbatch`."""

import dataclasses
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gpt2dist.errors import RunError, UserError
from gpt2dist.run.submissions import SCRIPT
from gpt2dist.submission.job import SchedulerJob, Work, require_positive
from gpt2dist.submission.schedulers.base import CONTAINER_IMAGE, CPUS_PER_NODE, SAVE_SECONDS, Scheduler, option
from gpt2dist.submission.template import common_values, render

DEFAULT_SAVE_SECONDS = 300
FINISH = "finish.sh"
"""Script that merges the results of an array's tasks."""
_MEMORY = re.compile(r"\d+[KMGT]?", re.IGNORECASE)
_RESOURCE = re.compile(r"(?P<name>[^\s:,]+?)(?::(?P<type>[^\s:,]*[^\s:,\d][^\s:,]*))?(?::(?P<count>\d+))?")
_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?)|(?P<clock>\d+(?::\d+){0,2})")
OURS = {
    "nodes": "give submit's own --nodes",
    **dict.fromkeys(
        ("ntasks", "ntasks-per-node", "ntasks-per-core", "ntasks-per-socket", "ntasks-per-gpu"),
        "each node has one task, which starts the ranks; give --gpus-per-node",
    ),
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"), "give --gpus-per-node"),
    **dict.fromkeys(("cpus-per-task", "cpus-per-gpu"), "give --cpus-per-node"),
    "partition": "give submit's own --partition",
    "account": "give submit's own --account",
    "time": "give submit's own --time",
    "mem": "give submit's own --mem",
    **dict.fromkeys(
        ("mem-per-cpu", "mem-per-gpu"), "each node has one task; give --mem, the memory of each node"
    ),
    "gres": "give submit's own --gres",
    "array": "give --tasks, with --job preprocess",
    "signal": "give --save-seconds",
    "job-name": "the job is named after its run or dataset",
    "chdir": "the job starts in the directory where you submit it; change to that directory first",
    **dict.fromkeys(("output", "error", "open-mode"), "the log is written beside the script"),
    **dict.fromkeys(("requeue", "no-requeue"), "the job is requeued whenever it can resume"),
    "wrap": "submit writes the script",
}
"""Options of sbatch that submit sets or relies on → what to do instead, or why."""
SHORT = {
    **{"N": "nodes", "n": "ntasks", "G": "gpus", "c": "cpus-per-task", "p": "partition", "A": "account"},
    **{"t": "time", "a": "array", "J": "job-name", "D": "chdir", "o": "output", "e": "error"},
}
"""Short forms of those options."""
WITHOUT_VALUE = "hHIkOQsvVW"
"""Short options of sbatch without a value: other short options may follow in the same word, as in -HN4."""
DROPPED = "--kill-on-invalid-dep=yes"
"""Option that removes a job from the queue when its dependency can no longer be met."""


@dataclasses.dataclass(frozen=True)
class Slurm(Scheduler):
    """Scheduler that submits jobs to Slurm.

    Attributes:
        partition: Partition to run in; None for the cluster's default.
        account: Account to charge; None for the cluster's default.
        time: Time limit in Slurm's notation: minutes, H:MM:SS, D-HH …; None for the partition's default.
        save_seconds: Seconds before that limit at which a job that can resume is asked to stop; None for 300.
        cpus_per_node: Number of cores per node; None for whole nodes.
        mem: Memory of each node in Slurm's notation; None for all of whole nodes, else the partition's default.
        gres: Generic resources of each node, such as gpu:a100:8; GPUs among them replace --gpus-per-node.
        container_image: Image for pyxis (`srun --container-image`).
        sbatch: Further options of sbatch, such as `--qos=high`.
    """

    container_image: str | None = option(**CONTAINER_IMAGE)
    cpus_per_node: int | None = option(**CPUS_PER_NODE)
    mem: str | None = option(
        metavar="SIZE", help="memory of each node, as 64G (default: all of whole nodes, else the partition's)"
    )
    gres: str | None = option(
        metavar="LIST", help="resources of each node, as gpu:a100:8, for clusters without --gpus-per-node"
    )
    save_seconds: int | None = option(**SAVE_SECONDS)
    partition: str | None = option(metavar="NAME", help="default: the cluster's")
    account: str | None = option(metavar="NAME", help="default: yours")
    time: str | None = option(metavar="LIMIT", help="minutes, H:MM:SS or D-HH:MM:SS (default: the partition's)")
    sbatch: Sequence[str] | None = option(
        action="append", metavar="OPTION", help="a further option, as --sbatch=--qos=high; repeatable"
    )

    def check(self, work: Work) -> None:
        """Check the options, and that the time limit leaves time to save.

        Raises:
            UserError: An option is invalid, the time limit is not above the time to save, or a container cannot
                mount a path.
        """
        if self.save_seconds is not None and not _stops_near_limit(work):
            raise UserError(
                "--save-seconds: only training and `evaluate --watch` save before the time limit; omit it"
            )
        kept = self._kept(work)
        if _stops_near_limit(work):
            require_positive("--save-seconds", kept, "the time to save before the limit")
        if self.cpus_per_node is not None:
            require_positive("--cpus-per-node", self.cpus_per_node, "the cores of each node")
        if self.mem is not None and not _MEMORY.fullmatch(self.mem):
            raise UserError(f"--mem {self.mem}: write the memory of each node, as 64G (K, M, G or T; 0 for all)")
        if self.time is not None and seconds(self.time) <= kept:
            raise UserError(
                f"--time {self.time}: must be above the {kept} seconds kept for saving; give more time, or set "
                "--save-seconds"
            )
        for each in self.sbatch or ():
            check_option(each)
        if self.container_image is not None:
            self._check_container(work)

    def check_resources(self, job: SchedulerJob) -> None:
        """Check that --gres asks for the GPUs of the ranks.

        Raises:
            UserError: It is not a list of resources, or its GPUs are not as many as --gpus-per-node.
        """
        gpus = self._gpus()
        if gpus not in (None, job.gpus_per_node):
            wanted = f"--gpus-per-node is {job.gpus_per_node}" if job.gpus_per_node else "the job uses none"
            raise UserError(f"--gres {self.gres}: {gpus} GPUs on each node, but {wanted}; give the same number")

    def _gpus(self) -> int | None:
        """Return the GPUs of each node that --gres asks for; None if it names none."""
        counts = []
        for each in [] if self.gres is None else self.gres.split(","):
            found = _RESOURCE.fullmatch(each)
            if not found:
                raise UserError(
                    f"--gres {self.gres}: write NAME[:TYPE]:COUNT, as gpu:a100:8; separate several by commas"
                )
            if found["name"] == "gpu":
                counts.append(int(found["count"] or 1))
        return sum(counts) if counts else None

    def _kept(self, work: Work) -> int:
        """Return how many seconds before the limit the job is asked to stop; 0 if it runs to the limit."""
        if not _stops_near_limit(work):
            return 0
        return DEFAULT_SAVE_SECONDS if self.save_seconds is None else self.save_seconds

    def files(self, job: SchedulerJob) -> dict[str, str]:
        """Render the scripts: one, or two for an array."""
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
            log: Name of the log, without suffix; it may contain Slurm's patterns, such as %j for the job id.
            options: Further options of sbatch to write as directives.
            values: Further values for the template.
        """
        condition = ["--dependency=afterok:JOB"] if file == FINISH else []
        values = {
            **common_values(job),
            **values,
            "file": file,
            "by_hand": shlex.join(["sbatch", *condition, str(job.submission_directory / file)]),
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
        if job.gpus_per_node and self._gpus() is None:
            yield f"--gpus-per-node={job.gpus_per_node}"
        if self.gres:
            yield f"--gres={quote(self.gres)}"
        yield f"--cpus-per-task={self.cpus_per_node}" if self.cpus_per_node else "--exclusive"
        if self.mem or not self.cpus_per_node:
            yield f"--mem={self.mem or 0}"  # whole nodes: all of their memory, not the partition's default
        for name in ("partition", "account", "time"):
            if value := getattr(self, name):
                yield f"--{name}={quote(value)}"
        if _stops_near_limit(job.work):
            yield f"--signal=B:USR1@{self._kept(job.work)}"
        yield "--requeue"
        yield "--open-mode=append"
        yield f"--chdir={quote(str(job.working_directory))}"
        yield f"--output={quote(log_pattern(job, log))}"
        yield from options
        yield from self.sbatch or ()

    def _check_container(self, work: Work) -> None:
        """Check that an image is named, and that pyxis can mount all paths."""
        if not (self.container_image or "").strip():
            raise UserError("--container-image: is empty; name an image, or omit it")
        for path in (Path.cwd(), *work.paths):  # the job starts in the current directory
            if found := re.search("[,:]", str(path)):
                raise UserError(
                    f"{path}: a container cannot mount a path with {found[0]!r}, which separates the mounts; "
                    "rename it, or leave out --container-image"
                )

    def _container(self, job: SchedulerJob) -> str:
        """Return srun's options for pyxis, with a trailing space; empty without an image."""
        if not self.container_image:
            return ""
        mounts = ",".join(f"{path}:{path}" for path in outermost([job.working_directory, *job.work.paths]))
        options = [
            f"--container-image={self.container_image}",
            f"--container-mounts={mounts}",
            f"--container-workdir={job.working_directory}",
        ]
        return shlex.join(options) + " "

    def command(self, job: SchedulerJob) -> str:
        """Return the command that submits the job; for an array, also the job that merges the results."""
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
            raise UserError(
                f"sbatch not found on this machine; on a login node of the cluster, run: {self.command(job)}"
            )
        number = _sbatch(str(job.script))
        if job.tasks == 1:
            return [number]
        try:
            return [number, _sbatch(f"--dependency=afterok:{number}", DROPPED, _finish(job))]
        except RunError as error:
            raise RunError(f"{error}; job {number}, which does the parts, is submitted already") from None

    def next_steps(self, job: SchedulerJob, ids: list[int]) -> str:
        """Return the commands that watch and stop a job."""
        number, *finish = ids
        if finish:
            jobs, logs = f"{number} {finish[0]}", [f"job-{number}-*.log", f"finish-{finish[0]}.log"]
        else:
            jobs, logs = str(number), [f"job-{number}.log"]
        paths = " ".join(f"{shlex.quote(str(job.submission_directory))}/{log}" for log in logs)
        lines = [
            f"  squeue --jobs={jobs.replace(' ', ',')}                           its state in the queue",
            f"  tail -F {paths}",
            f"  scancel {jobs}                                 stops it for good",
        ]
        if job.work.verb != "preprocess":
            lines.append(f"  scancel --signal=TERM --batch {number}           stops it and requeues it")
        if finish:
            lines.append(
                f"  Job {finish[0]} merges the parts into the dataset once all are done. If a part fails, Slurm "
                "cancels that job:\n  submit the same command again, and only the missing parts are done"
            )
        return "\n".join(lines)


def check_option(text: str) -> None:
    """Check a further option of sbatch, which becomes one `#SBATCH` line.

    Raises:
        UserError: The text is not an option, or submit sets or relies on that option.
    """
    try:
        words = shlex.split(text)
    except ValueError:  # a quote is not closed
        words = []
    if not words or not re.match(r"--?[A-Za-z]", words[0]):
        raise UserError(f"--sbatch {text}: write an option of sbatch, as --sbatch=--qos=high")
    for word in words:
        for name in _names_in(word):
            raise UserError(f"--sbatch {text}: submit sets or relies on --{name}; omit it ({OURS[name]})")


def _names_in(word: str) -> Iterator[str]:
    """Yield the long names of the options in a word that submit sets or relies on."""
    if word.startswith("--"):
        name = word[2:].partition("=")[0]
        if name in OURS:
            yield name
        elif name:  # sbatch accepts abbreviations
            yield from (ours for ours in OURS if ours.startswith(name))
    elif word.startswith("-"):
        for letter in word[1:]:
            if letter in SHORT:
                yield SHORT[letter]
            if letter not in WITHOUT_VALUE:
                return


def _finish(job: SchedulerJob) -> str:
    """Return the path of the script that merges the results of an array."""
    return str(job.submission_directory / FINISH)


def _stops_near_limit(work: Work) -> bool:
    """Return whether the job is asked to stop before the time limit; it is then requeued and resumes."""
    return work.config is not None or work.endless


def _sbatch(*arguments: str) -> int:
    """Submit a script, and return the job id."""
    done = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True)
    number, _, _ = done.stdout.strip().partition(";")  # ";CLUSTER" may follow
    if done.returncode or not number.isdecimal():
        said = (done.stderr or done.stdout).strip()
        raise RunError(f"sbatch refused {arguments[-1]} (exit code {done.returncode}): {said}")
    return int(number)


def log_pattern(job: SchedulerJob, name: str) -> str:
    """Return the path of a log for Slurm; `name` may contain its patterns, such as %j for the job id."""
    return str(job.submission_directory).replace("%", "%%") + f"/{name}.log"


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Return the sorted paths that are not inside another of the paths."""
    unique = sorted(set(paths))
    return [path for path in unique if not any(other in path.parents for other in unique)]


def seconds(time: str) -> int:
    """Return the seconds of a time limit in Slurm's notation: M, M:SS, H:MM:SS, D-H, D-H:MM or D-H:MM:SS.

    Raises:
        UserError: The text does not have one of these forms.
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
