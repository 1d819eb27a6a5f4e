"""Marker files of a run that ends before its last step. Does not import torch.

`stopped.json` records that the run stopped on request, with everything saved. The scheduler's script reads it to
restart the job, since launchers turn exit codes into 1. `finished.json` records that `evaluation.patience` ended
the run, which is not restarted. `failed.json` names the first rank that failed, and why. A killed rank writes no
marker; the other ranks then report that they lost it.
"""

import contextlib
import json
import time
from pathlib import Path

from gpt2dist import atomic_io
from gpt2dist.errors import UserError
from gpt2dist.run.directory import RunDirectory

PEER_LOST = "another rank failed first: killed, perhaps out of memory, or its host or the network went down"
"""Explanation to show for a PeerLostError."""


def write_stopped(run: Path, reason: str, step: int, total_steps: int) -> None:
    """Write stopped.json.

    Args:
        run: The run directory.
        reason: Name of the signal.
        step: Optimizer steps done.
        total_steps: Optimizer steps of the whole run.
    """
    marker = {"reason": reason, "step": step, "total_steps": total_steps, "time": round(time.time(), 3)}
    # Written on one line because shell scripts read it.
    atomic_io.write_text(RunDirectory(run).stopped_marker, json.dumps(marker) + "\n")


def write_finished(run: Path, reason: str, step: int, total_steps: int) -> None:
    """Write finished.json.

    Args:
        run: The run directory.
        reason: Why the run is over before its last step.
        step: Optimizer steps done.
        total_steps: Optimizer steps of the whole run.
    """
    marker = {"reason": reason, "step": step, "total_steps": total_steps, "time": round(time.time(), 3)}
    atomic_io.write_text(RunDirectory(run).finished_marker, json.dumps(marker) + "\n")


def write_failed(run: Path, rank: int, error: BaseException) -> None:
    """Write failed.json unless it exists: failures after the first are its consequence.

    Args:
        run: The run directory.
        rank: The rank that failed.
        error: The exception that ended it.
    """
    marker = {"rank": rank, "kind": type(error).__name__, "reason": str(error), "time": round(time.time(), 3)}
    # A full disk may be the failure itself. Do not mask it by an error about this file.
    with contextlib.suppress(OSError), RunDirectory(run).failed_marker.open("x", encoding="utf-8") as file:
        file.write(json.dumps(marker) + "\n")


def clear_ended(run: Path) -> None:
    """Remove stopped.json and finished.json when the run is resumed."""
    _remove(RunDirectory(run).stopped_marker)
    _remove(RunDirectory(run).finished_marker)


def clear_failed(run: Path) -> None:
    """Remove failed.json when the run is resumed."""
    _remove(RunDirectory(run).failed_marker)


def _remove(marker: Path) -> None:
    try:
        marker.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{marker}: cannot be removed ({error.strerror}); remove it by hand") from None
