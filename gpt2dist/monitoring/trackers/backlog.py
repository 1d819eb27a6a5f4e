"""Catch up with the history of a run in small parts: other ranks wait while rank 0 logs."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from gpt2dist.run.metrics_file import Line

LINES_AT_ONCE = 500
"""Missing lines that are sent with each new line: up to a tenth of a second."""
LINES_AT_END = 10_000
"""Missing lines that are sent at the end: a second or two, since a job that must stop has little time."""


class Backlog:
    """The lines that a tracker lacks. New lines wait behind them, so that the order is kept.

    Args:
        missing: The lines, in order; each is read when it is sent.
        send: Sends a line.
    """

    def __init__(self, missing: Iterable[Line], send: Callable[[Line], None]):
        self._missing: Iterator[Line] | None = iter(missing)
        self._send = send
        self._waiting: deque[Line] = deque()

    def add(self, line: Line) -> None:
        """Send some of the missing lines, and a new line as soon as none is missing."""
        self._waiting.append(line)
        self._catch_up(LINES_AT_ONCE)

    def finish(self) -> bool:
        """Send what is left, if that takes seconds only; return whether nothing is missing any more."""
        self._catch_up(LINES_AT_END)
        return self._missing is None

    def _catch_up(self, most: int) -> None:
        if self._missing is not None:
            count = 0
            for line in itertools.islice(self._missing, most):
                self._send(line)
                count += 1
            if count == most:
                return
            self._missing = None
        while self._waiting:
            self._send(self._waiting.popleft())
