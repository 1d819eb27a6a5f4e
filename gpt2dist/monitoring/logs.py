"""Logging: a file per rank, and the terminal for rank 0."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from gpt2dist.monitoring.progress import is_quiet
from gpt2dist.run.directory import RunDirectory
from gpt2dist.terminal import shown_on

logger = logging.getLogger("gpt2dist")


def quiet_libraries() -> None:
    """Keep log messages of libraries off the terminal. Call this before importing them."""
    logging.getLogger().addHandler(logging.NullHandler())  # otherwise their warnings go to standard error
    logging.captureWarnings(True)


class _TerminalFormatter(logging.Formatter):
    """Formatter for messages on standard error, which may quote files."""

    def format(self, record: logging.LogRecord) -> str:
        return shown_on(sys.stderr, super().format(record))


@contextlib.contextmanager
def rank_logging(run: Path, rank: int) -> Iterator[None]:
    """Write all messages to the rank's log, and on rank 0 gpt2dist's own messages to standard error too."""
    path = RunDirectory(run).rank_log(rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handlers: list[tuple[logging.Logger, logging.Handler]] = [(logging.getLogger(), file)]
    if rank == 0:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setFormatter(_TerminalFormatter("%(message)s"))
        terminal.setLevel(logging.WARNING if is_quiet() else logging.INFO)
        handlers.append((logger, terminal))
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    for owner, handler in handlers:
        owner.addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)
        for owner, handler in handlers:
            owner.removeHandler(handler)
            handler.close()
