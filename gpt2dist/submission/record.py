"""What a submission leaves in the run directory: script, configuration, code and environment."""

import getpass
import json
import os
import platform
import socket
import sys
import time
from pathlib import Path
from typing import Any

from gpt2dist import __version__
from gpt2dist.config import Config
from gpt2dist.errors import UserError
from gpt2dist.monitoring import code

DIRECTORY = "submission"


def make_directory(run: Path) -> Path:
    """Makes RUN/submission/NNN, the next free one: a job that waits still reads those before.

    Raises:
        UserError: Nothing can be written there.
    """
    home = run / DIRECTORY
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
        raise UserError(f"{home}: cannot be written ({error.strerror}); set run.output_dir") from error


def write(record: Path, script: str, config: Config, asked: dict[str, Any]) -> None:
    """Writes job.sh, config.yaml, environment.json, and code.diff where the code is not what was committed.

    Args:
        record: The directory of this submission.
        script: The rendered script.
        config: The run as resolved.
        asked: What was asked for on the command line.
    """
    (record / "job.sh").write_text(script, encoding="utf-8")
    (record / "job.sh").chmod(0o755)
    (record / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    changes = code.uncommitted()
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
        "git_commit": code.commit(),
        "git_uncommitted": bool(changes),
        "python": platform.python_version(),
        "interpreter": sys.executable,
        "environment": {name: os.environ[name] for name in sorted(os.environ) if _is_telling(name)},
    }
    (record / "environment.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def note(record: Path, **facts: str | int) -> None:
    """Adds to environment.json what is known once the job is submitted."""
    path = record / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts, indent=1, ensure_ascii=False) + "\n")


TELLING = ("CUDA", "NCCL", "GLOO", "OMP", "TORCH", "PYTORCH", "PYTHON", "LD_LIBRARY", "HF_HOME", "HF_HUB_OFFLINE")


def _is_telling(name: str) -> bool:
    """Whether a variable may change what is computed. Others stay private: some hold passwords."""
    return name.startswith(TELLING) and not any(word in name for word in ("TOKEN", "KEY", "SECRET", "PASS"))
