"""One job at a time in a run directory, and whether there is one. Free of torch."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2dist.errors import UserError
from gpt2dist.run.directory import RunDirectory

if TYPE_CHECKING:
    from gpt2dist.distributed.world import World

PATIENCE_SECONDS = 1.0
"""A look at the lock holds it for an instant, which must not turn a job away."""


@contextlib.contextmanager
def only_job(directory: Path, world: "World") -> Iterator[None]:
    """Keeps other jobs out of a run directory. Collective; rank 0 holds the lock, which ends with its process.

    Raises:
        UserError: Another job is at work there; it is named.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        world.on_main(lambda: _take(directory, held))
        yield


def is_held(directory: Path) -> bool | None:
    """Whether a job is at work in a run directory; None where that cannot be known.

    False is certain only of jobs of this host: there are file systems whose locks do not reach others.
    """
    try:
        with RunDirectory(directory).lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look do not see each other
    except BlockingIOError:
        return True
    except OSError:  # no such file, not ours to read, or a file system without locks
        return None
    return False


def _take(directory: Path, held: contextlib.ExitStack) -> None:
    file = held.enter_context(RunDirectory(directory).lock.open("a+"))
    try:
        _lock(file.fileno())
    except BlockingIOError:
        file.seek(0)
        other = file.read().strip() or "it has just begun"
        raise UserError(
            f"{directory}: another job is training here ({other}); wait for it, stop it, or set "
            "run.output_dir to a new directory"
        ) from None
    except OSError:
        pass  # a file system without locks: who is at work is written all the same
    file.truncate(0)
    file.write(json.dumps(_owner()) + "\n")
    file.flush()


def _lock(file: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(PATIENCE_SECONDS / 20)


def _owner() -> dict[str, str | int]:
    owner: dict[str, str | int] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    job = os.environ.get("SLURM_JOB_ID")
    return owner | ({"slurm_job": job} if job else {})
