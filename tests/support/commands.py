"""Commands as a user starts them, in sessions of their own, so that nothing outlives a test."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

BIN = Path(sys.executable).parent
PATIENCE = 180.0
"""Seconds until a test gives up what it waits for. Where nothing else computes, a start takes five to ten."""


@contextlib.contextmanager
def started(command: list[str], stderr: int | IO[str] = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """Starts a command; ends it and all that it started at the end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for stream in filter(None, (process.stdout, process.stderr)):
            stream.close()
        process.wait(10)


def launch(command: list[str], timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    with started(command) as process:
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def ranks_of(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Rank → process id of the ranks that a launcher started."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            words = dict(word.partition("=")[::2] for word in path.read_text(errors="replace").split("\0"))
            parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher.pid and "RANK" in words:
                found[int(words["RANK"])] = int(path.parent.name)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def start_python(code, **more):
    """Start a Python that runs some code, its standard output a pipe."""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **more)


def read_line(process):
    """Return the next line that a process prints."""
    return process.stdout.readline().strip()
