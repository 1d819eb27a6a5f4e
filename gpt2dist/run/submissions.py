"""What a submission leaves behind: scripts, configuration, code and environment."""

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

from gpt2dist import __version__
from gpt2dist.errors import UserError
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.environment import commit, uncommitted

if TYPE_CHECKING:  # pydantic would slow `status` down
    from gpt2dist.config import Config

CONFIG, SCRIPT = "config.yaml", "job.sh"
"""The run as resolved, and the script that the scheduler is given."""
FACTS = "submission.json"


def make_directory(home: Path) -> Path:
    """Makes HOME/NNN, the next free one: a job that waits still reads those before.

    Raises:
        UserError: Nothing can be written there.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        number = max((int(path.name) for path in home.iterdir() if path.name.isdecimal()), default=0)
        while True:
            number += 1
            try:
                (home / f"{number:03d}").mkdir()
            except FileExistsError:  # somebody else submits
                continue
            return home / f"{number:03d}"
    except OSError as error:
        raise UserError(
            f"{home}: cannot be written ({error.strerror}); the record of the job belongs there"
        ) from error


def write(record: Path, files: Mapping[str, str], config: "Config | None", asked: dict[str, Any]) -> None:
    """Writes the files, config.yaml, submission.json, and code.diff where the code is not what was committed.

    Args:
        record: The directory of this submission.
        files: What was rendered, by name; scripts can be run.
        config: The run as resolved; None where it is no training.
        asked: What was asked for on the command line.
    """
    for name, text in files.items():
        (record / name).write_text(text, encoding="utf-8")
        if text.startswith("#!"):
            (record / name).chmod(0o755)
    if config:
        (record / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
    changes = uncommitted()
    if changes:
        (record / "code.diff").write_text(changes, encoding="utf-8")
    facts = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "command": sys.argv,
        "directory": str(Path.cwd()),
        "asked": asked,
        "gpt2dist": __version__,
        "git_commit": commit(),
        "git_uncommitted": bool(changes),
        "python": platform.python_version(),
        "interpreter": sys.executable,
        "environment": {name: os.environ[name] for name in sorted(os.environ) if _is_telling(name)},
    }
    (record / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def note(record: Path, scheduler: str, jobs: Sequence[int | str]) -> None:
    """Adds to submission.json what is known once the job is submitted.

    Args:
        record: The directory of this submission.
        scheduler: Who has it.
        jobs: What the scheduler calls it; behind it, what it calls those that follow.
    """
    path = record / FACTS
    facts = json.loads(path.read_text()) | {"scheduler": scheduler, "jobs": list(jobs), "submitted": time.time()}
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


@dataclasses.dataclass(frozen=True)
class Submission:
    """A job that a scheduler was given.

    Attributes:
        record: Its directory.
        work: The verb: train, evaluate or preprocess.
        scheduler: slurm, local or kubernetes.
        jobs: What the scheduler calls it, and those that follow it.
        time: When, in seconds since 1970.
    """

    record: Path
    work: str
    scheduler: str
    jobs: list[int | str]
    time: float


def submissions(run: Path) -> list[Submission]:
    """The jobs that were submitted for a run, oldest first; dry runs are none."""
    found = []
    for path in RunDirectory(run).submissions.glob(f"*/{FACTS}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not submitted, or being written
            facts = json.loads(path.read_bytes())
            asked = facts["asked"]["job"], facts["scheduler"], list(facts["jobs"]), float(facts["submitted"])
            found.append(Submission(path.parent, *asked))
    return sorted(found, key=lambda each: each.time)


TELLING = ("CUDA", "NCCL", "GLOO", "OMP", "TORCH", "PYTORCH", "PYTHON", "LD_LIBRARY", "HF_HOME", "HF_HUB_OFFLINE")


def _is_telling(name: str) -> bool:
    """Whether a variable may change what is computed. Others stay private: some hold passwords."""
    return name.startswith(TELLING) and not any(word in name for word in ("TOKEN", "KEY", "SECRET", "PASS"))
