"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from tqdm import tqdm

PLAIN_LINE_SECONDS = 10.0
"""Least time between two plain lines, so that the log of a week-long job stays readable."""
PLAIN_FORMAT = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"

_quiet = False


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Shows no progress and no news, only what is wrong: the option --quiet."""
    global _quiet
    _quiet = True
    try:
        yield
    finally:
        _quiet = False


def is_quiet() -> bool:
    """Whether only what is wrong is to be shown."""
    return _quiet


def info(text: str, command: str = "") -> None:
    """Print a line on standard error, unless --quiet was given.

    Args:
        text: The message.
        command: The verb to name at the start of the line, if any.
    """
    if not _quiet:
        _print(text, command)


def warn(text: str, command: str = "") -> None:
    """Print a warning on standard error, also under --quiet; the arguments are those of `info`."""
    _print(f"WARNING: {text}", command)


def _print(text: str, command: str) -> None:
    print(f"gpt2dist {command}: {text}" if command else text, file=sys.stderr, flush=True)


class Progress:
    """A progress display on standard error, used as a context manager.

    Args:
        description: What is being done, in a word or two.
        total: Amount of work, in `unit`; None where it is not known.
        unit: Name of one unit of work, such as "step" or "B" (bytes).
        initial: Amount that was done before, by an interrupted run.
        scale: Whether large amounts are shown with k, M, G.
        enabled: False shows nothing (ranks other than 0).
        leave: Whether the final state stays to be seen; False for a part of other work.
    """

    def __init__(
        self,
        description: str,
        total: int | None,
        unit: str,
        initial: int = 0,
        scale: bool = False,
        enabled: bool = True,
        leave: bool = True,
    ):
        self._enabled = enabled
        self._plain = enabled and not sys.stderr.isatty()
        self._bar = tqdm(
            desc=description,
            total=total,
            unit=unit,
            initial=initial,
            unit_scale=scale,
            dynamic_ncols=not self._plain,
            mininterval=0.2,
            disable=not enabled or _quiet,
            leave=leave,
            # Without a terminal tqdm only keeps the count and the time; its text is printed below, line by line.
            file=io.StringIO() if self._plain else sys.stderr,
            bar_format=PLAIN_FORMAT if self._plain else None,
        )
        self._details: dict[str, str] = {}
        self._shown = initial  # the count of the last plain line
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def advance(self, amount: int = 1, total: int | None = None, /, **details: str) -> None:
        """Counts units as done.

        Args:
            amount: How many.
            total: The amount of work, where it was not known before.
            details: Name → text, shown beside the bar.
        """
        self._details.update(details)
        self._bar.total = total or self._bar.total
        if self._bar.disable:
            return
        if not self._plain:
            self._bar.set_postfix(self._details, refresh=False)
            self._bar.update(amount)
            return
        self._bar.n += amount
        if time.monotonic() - self._last_line >= PLAIN_LINE_SECONDS:
            self._print_line()

    def info(self, text: str, command: str = "") -> None:
        """Print a line above the bar, as `info` does."""
        if self._enabled:
            with self._above_the_bar():
                info(text, command)

    def warn(self, text: str, command: str = "") -> None:
        """Print a warning above the bar, as `warn` does."""
        if self._enabled:
            with self._above_the_bar():
                warn(text, command)

    def _above_the_bar(self) -> AbstractContextManager[None]:
        on_screen = not self._plain and not self._bar.disable
        return tqdm.external_write_mode(file=sys.stderr) if on_screen else contextlib.nullcontext()

    def close(self) -> None:
        """Shows the final state and ends the display."""
        if self._plain and self._bar.leave and not self._bar.disable and self._bar.n != self._shown:
            self._print_line()
        self._bar.close()

    def _print_line(self) -> None:
        self._bar.set_postfix(self._details, refresh=False)
        print(str(self._bar).strip(), file=sys.stderr, flush=True)
        self._shown, self._last_line = self._bar.n, time.monotonic()
