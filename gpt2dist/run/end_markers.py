"""stopped.json and failed.json: markers that a run leaves when it ends before its last step. Free of torch.

`stopped.json` says that the run stopped on request, with everything saved. A scheduler's script reads it to start
the job again, since launchers turn exit codes into 1. `failed.json` names the first rank that failed and why. A
rank that is killed writes none itself; the others then report that they lost it.
"""

import contextlib
import json
import time
from pathlib import Path

from gpt2dist import atomic_io
from gpt2dist.run.directory import RunDirectory

PEER_LOST = "another rank was gone before: killed, perhaps out of memory, or its host or the network went down"
"""What to report of a PeerLostError."""


def write_stopped(run: Path, reason: str, step: int, total_steps: int) -> None:
    """Write stopped.json.

    Args:
        run: The run directory.
        reason: Name of the signal.
        step: Optimizer steps done.
        total_steps: Of the whole run.
    """
    marker = {"reason": reason, "step": step, "total_steps": total_steps, "time": round(time.time(), 3)}
    # On one line: shell scripts read it.
    atomic_io.write_text(RunDirectory(run).stopped_marker, json.dumps(marker) + "\n")


def write_failed(run: Path, rank: int, error: BaseException) -> None:
    """Write failed.json, unless another rank failed before: what comes after is the consequence.

    Args:
        run: The run directory.
        rank: The rank that failed.
        error: The exception that ended it.
    """
    marker = {"rank": rank, "kind": type(error).__name__, "reason": str(error), "time": round(time.time(), 3)}
    # A full disk may be the very failure: then that is reported, not that this file cannot be written.
    with contextlib.suppress(OSError), RunDirectory(run).failed_marker.open("x", encoding="utf-8") as file:
        file.write(json.dumps(marker) + "\n")


def clear_stopped(run: Path) -> None:
    """Remove stopped.json: the run is resumed."""
    RunDirectory(run).stopped_marker.unlink(missing_ok=True)


def clear_failed(run: Path) -> None:
    """Remove failed.json: the run is resumed."""
    RunDirectory(run).failed_marker.unlink(missing_ok=True)
