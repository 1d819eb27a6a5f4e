"""The lock that allows one job at a time in a run directory. Does not import torch."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2dist import atomic_io, json_files
from gpt2dist.errors import UserError
from gpt2dist.run.directory import RunDirectory

if TYPE_CHECKING:
    from gpt2dist.distributed.world import World

PATIENCE_SECONDS = 1.0
"""Time to retry a busy lock: `is_held` holds it briefly, which must not make a job fail."""

OWNER_BYTES = 1000
"""Maximum number of bytes to read from the lock file."""


@contextlib.contextmanager
def only_job(directory: Path, world: "World") -> Iterator[None]:
    """Keep other jobs out of a run directory. Collective.

    Rank 0 holds the lock. The lock is released when its process exits, at the latest.

    Raises:
        UserError: Another job holds the lock; the message names it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        world.on_main(lambda: _take(directory, held))
        yield


def is_held(directory: Path) -> bool | None:
    """Return whether a job is active in a run directory, or None if that cannot be determined.

    False is certain only for jobs on this host: on some file systems, locks are not visible on other hosts.
    """
    lock = RunDirectory(directory).lock
    if not json_files.is_file(lock):
        return None
    try:
        with lock.open("rb") as file:
            # Shared, so that two callers do not see each other.
            free = atomic_io.try_lock(file.fileno(), shared=True)
    except OSError:  # another user's, for example
        return None
    return None if free is None else not free


def _take(directory: Path, held: contextlib.ExitStack) -> None:
    path = RunDirectory(directory).lock
    if path.exists() and not json_files.is_file(path):
        raise UserError(f"{path}: not a regular file; remove it")
    try:
        file = held.enter_context(path.open("a+", errors="replace"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be opened ({error.strerror}); remove it, or name another run.output_dir"
        ) from None
    if not _lock(file.fileno()):
        file.seek(0)
        other = file.read(OWNER_BYTES).strip() or "it has just started"
        raise UserError(
            f"{directory}: another job is training here ({other}); wait for it, stop it, or set "
            "run.output_dir to a new directory"
        )
    file.truncate(0)
    file.write(json.dumps(_owner()) + "\n")
    file.flush()


def _lock(file: int) -> bool:
    """Return whether no other job holds the lock; a file system without locks counts as free."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while atomic_io.try_lock(file) is False:
        if time.monotonic() > deadline:
            return False
        time.sleep(PATIENCE_SECONDS / 20)
    return True


def _owner() -> dict[str, str | int]:
    owner: dict[str, str | int] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    job = os.environ.get("SLURM_JOB_ID")
    return owner | ({"slurm_job": job} if job else {})
