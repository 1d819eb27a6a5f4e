"""This machine: the script, started in the background."""

import shlex
import subprocess
from pathlib import Path

from gpt2dist.submission.plan import Job
from gpt2dist.submission.template import common_values, render


def script(job: Job) -> str:
    """The script."""
    return render("local.sh", common_values(job))


def log(job: Job) -> Path:
    """Where what it says goes."""
    return job.record / "job.log"


def command(path: Path) -> list[str]:
    """The command that runs a script."""
    return ["bash", str(path)]


def start(job: Job) -> int:
    """Starts it in a session of its own, which outlives this shell; returns the process id."""
    with log(job).open("ab") as file:
        process = subprocess.Popen(
            command(job.script), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    return process.pid


def how_to_follow(job: Job, pid: int) -> str:
    """What to type to watch and to stop it."""
    return f"""\
  tail -F {shlex.quote(str(log(job)))}
  kill {pid}          stops it with everything saved
  {shlex.join(command(job.script))}          goes on"""
