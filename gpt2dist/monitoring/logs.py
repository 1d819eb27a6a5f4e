"""Who says what where: a rank's whole log goes to its file, the terminal sees what concerns its reader."""

import logging
import sys
from pathlib import Path

logger = logging.getLogger("gpt2dist")


def quiet_libraries() -> None:
    """Keeps the chatter of the libraries off the terminal. Called before they are imported."""
    logging.getLogger().addHandler(logging.NullHandler())  # else their warnings go to standard error
    logging.captureWarnings(True)


def rank_log(run: Path, rank: int) -> Path:
    """The log of a rank in a run directory."""
    return run / "logs" / f"rank-{rank:05d}.log"


def open_rank_log(run: Path, rank: int) -> Path:
    """Sends everything to logs/rank-N.log, and on rank 0 gpt2dist's own messages to standard error too.

    Returns:
        The log.
    """
    path = rank_log(run, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(file)
    logging.getLogger().setLevel(logging.INFO)
    if rank == 0:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(terminal)
    return path
