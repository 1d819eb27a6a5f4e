"""failed.json: the word that a run leaves when a rank fails, for whoever has nothing but the run directory.

A rank that is killed leaves none itself; the others then say that they lost it. Free of torch.
"""

import contextlib
import json
import time
from pathlib import Path

NAME = "failed.json"
LOST = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed"),
    *("Timed out waiting", "timed out", "NCCL"),
)
"""What a rank says whose only trouble is that another one is gone."""
GONE = "another rank was gone before: killed, perhaps out of memory, or its host or the network went down"
"""What that means."""


def is_consequence(reason: str) -> bool:
    """Whether a rank with such a reason failed because another one was gone."""
    return any(word in reason for word in LOST)


def leave_word(run: Path, rank: int, error: BaseException) -> None:
    """Writes it, unless another rank failed before: what comes after is the consequence.

    Args:
        run: The run directory.
        rank: Whose failure it is.
        error: What it failed of.
    """
    word = {"rank": rank, "kind": type(error).__name__, "reason": str(error), "time": round(time.time(), 3)}
    # Also where the disk is full, which may be the failure: that is to be told, not this.
    with contextlib.suppress(OSError), (run / NAME).open("x", encoding="utf-8") as file:
        file.write(json.dumps(word) + "\n")


def take_back(run: Path) -> None:
    """Removes it: the run is at work again."""
    (run / NAME).unlink(missing_ok=True)
