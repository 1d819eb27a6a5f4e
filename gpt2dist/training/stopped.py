"""stopped.json: the word that a run leaves when it stopped on request, with everything saved.

A scheduler's script reads it to start the job again: launchers turn exit codes into 1.
"""

import json
import time
from pathlib import Path

from gpt2dist import atomic_io

NAME = "stopped.json"


def leave_word(run: Path, reason: str, step: int, total_steps: int) -> None:
    """Writes it.

    Args:
        run: The run directory.
        reason: Name of the signal.
        step: Optimizer steps done.
        total_steps: Of the whole run.
    """
    word = {"reason": reason, "step": step, "total_steps": total_steps, "time": round(time.time(), 3)}
    atomic_io.write_text(run / NAME, json.dumps(word) + "\n")  # one line: shell scripts read it


def take_back(run: Path) -> None:
    """Removes it: the run goes on."""
    (run / NAME).unlink(missing_ok=True)
