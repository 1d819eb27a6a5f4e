"""The files of submitted jobs, RUN/submission/NNN: scripts, configuration, code and environment."""

import contextlib
import dataclasses
import getpass
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist import __version__, json_files
from gpt2dist.errors import UserError
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.environment import commit, uncommitted

if TYPE_CHECKING:  # pydantic would slow `status` down
    from gpt2dist.config import Config

CONFIG, SCRIPT = "config.yaml", "job.sh"
"""File names of the resolved configuration, and of the script that the scheduler runs."""
FACTS = "submission.json"
RECORDED_PREFIXES = (
    "CUDA",
    "NCCL",
    "GLOO",
    "OMP",
    "TORCH",
    "PYTORCH",
    "PYTHON",
    "LD_LIBRARY",
    "HF_HOME",
    "HF_HUB_OFFLINE",
)


def make_directory(home: Path) -> Path:
    """Create HOME/NNN with the next free number. Earlier ones are kept, since jobs in the queue read them.

    Raises:
        UserError: The directory cannot be created.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        number = max((int(path.name) for path in home.iterdir() if path.name.isdecimal()), default=0)
        while True:
            number += 1
            try:
                (home / f"{number:03d}").mkdir()
            except FileExistsError:  # another submission has just taken this number
                continue
            return home / f"{number:03d}"
    except OSError as error:
        raise UserError(
            f"{home}: cannot be written ({error.strerror}); make it writable for the files of the job"
        ) from error


def write(directory: Path, files: Mapping[str, str], config: "Config | None", options: dict[str, Any]) -> None:
    """Write the files, config.yaml, submission.json, and code.diff if the code has uncommitted changes.

    Args:
        directory: The directory of this submission.
        files: Text of each file, by name; scripts become executable.
        config: The resolved configuration of a training run; None for other jobs.
        options: The options of the command line.
    """
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
        if text.startswith("#!"):
            (directory / name).chmod(0o755)
    if config:
        (directory / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
    changes = uncommitted()
    if changes:
        (directory / "code.diff").write_text(changes, encoding="utf-8")
    facts = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "command": sys.argv,
        "directory": str(Path.cwd()),
        "asked": options,
        "gpt2dist": __version__,
        "git_commit": commit(),
        "git_uncommitted": bool(changes),
        "python": platform.python_version(),
        "interpreter": sys.executable,
        "environment": {name: os.environ[name] for name in sorted(os.environ) if _is_recorded(name)},
    }
    # An option of another package's scheduler may have any type, such as Path.
    text = json.dumps(facts, indent=1, ensure_ascii=False, default=str)
    (directory / FACTS).write_text(f"{text}\n")


def record_submission(directory: Path, scheduler: str, jobs: Sequence[int | str]) -> None:
    """Add the scheduler, the job ids and the time to submission.json after the job was submitted.

    Args:
        directory: The directory of this submission.
        scheduler: Name of the scheduler that accepted the job.
        jobs: The scheduler's id of the job, then the ids of the jobs that depend on it.
    """
    path = directory / FACTS
    facts = json_files.require(path, "the job was submitted, but `gpt2dist status` cannot show it")
    facts |= {"scheduler": scheduler, "jobs": list(jobs), "submitted": time.time()}
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


@dataclasses.dataclass(frozen=True)
class Submission:
    """A job that was submitted to a scheduler.

    Attributes:
        directory: The directory of the submission.
        verb: train, evaluate or preprocess.
        scheduler: The value of --scheduler, which need not be installed here.
        jobs: The scheduler's id of the job, then the ids of the jobs that depend on it.
        time: Time of submission, in seconds since 1970.
    """

    directory: Path
    verb: str
    scheduler: str
    jobs: list[int | str]
    time: float


def submissions(run: Path) -> list[Submission]:
    """Return the jobs that were submitted for a run, oldest first. Dry runs do not count."""
    found = []
    for path in RunDirectory(run).submissions.glob(f"*/{FACTS}"):
        with contextlib.suppress(OSError, ValueError):  # not submitted, or not yet complete
            found.append(_parse(path.parent, json_files.load(path)))
    return sorted(found, key=lambda each: each.time)


def _parse(directory: Path, facts: dict[str, Any]) -> Submission:
    """Return a submission, given the content of its submission.json.

    Raises:
        ValueError: It was not submitted.
    """
    asked, jobs, submitted = facts.get("asked"), facts.get("jobs"), facts.get("submitted")
    verb, scheduler = asked.get("job") if isinstance(asked, dict) else None, facts.get("scheduler")
    if not (isinstance(verb, str) and isinstance(scheduler, str) and isinstance(submitted, int | float)):
        raise ValueError("not submitted")
    if not (isinstance(jobs, list) and jobs and all(isinstance(job, int | str) for job in jobs)):
        raise ValueError("no jobs")
    return Submission(directory, verb, scheduler, jobs, float(submitted))


def _is_recorded(name: str) -> bool:
    """Return whether to record a variable: one that may affect the computation, and not a secret."""
    return name.startswith(RECORDED_PREFIXES) and not any(
        word in name for word in ("TOKEN", "KEY", "SECRET", "PASS")
    )
