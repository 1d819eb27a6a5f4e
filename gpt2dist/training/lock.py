"""One job at a time in a run directory."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from gpt2dist.distributed import World
from gpt2dist.errors import UserError

NAME = "lock"


@contextlib.contextmanager
def only_job(directory: Path, world: World) -> Iterator[None]:
    """Keeps other jobs out of a run directory. Collective; rank 0 holds the lock, which ends with its process.

    Raises:
        UserError: Another job is at work there; it is named.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        world.on_main(lambda: _take(directory, held))
        yield


def _take(directory: Path, held: contextlib.ExitStack) -> None:
    file = held.enter_context((directory / NAME).open("a+"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        other = file.read().strip() or "it has just begun"
        raise UserError(
            f"{directory}: another job is training here ({other}); wait for it, stop it, or set "
            "run.output_dir to a new directory"
        ) from None
    except OSError:
        return  # a file system without locks
    file.truncate(0)
    file.write(json.dumps(_owner()) + "\n")
    file.flush()


def _owner() -> dict[str, str | int]:
    owner: dict[str, str | int] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    job = os.environ.get("SLURM_JOB_ID")
    return owner | ({"slurm_job": job} if job else {})
