"""Show the progress of long work: a bar with rate and remaining time on a terminal, plain lines elsewhere."""

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from tqdm import tqdm

from gpt2dist.terminal import say

PLAIN_LINE_SECONDS = 10.0
"""Minimum seconds between two plain lines, so that the log of a week-long job stays readable."""
PLAIN_FORMAT = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"

_quiet = False


@contextlib.contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Suppress progress and notices, but not warnings and errors. Implements --quiet.

    Args:
        quiet: False changes nothing.
    """
    global _quiet
    before, _quiet = _quiet, _quiet or quiet
    try:
        yield
    finally:
        _quiet = before


def is_quiet() -> bool:
    """Return whether only warnings and errors are shown."""
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
    say(f"gpt2dist {command}: {text}" if command else text)


class Progress:
    """A progress display on standard error, used as a context manager.

    Args:
        description: Name of the work, in a word or two.
        total: Amount of work, in `unit`; None if unknown.
        unit: Name of one unit of work, such as "step" or "B" (bytes).
        initial: Amount that an interrupted run has already done.
        scale: Whether to show large amounts with k, M, G.
        enabled: False shows nothing (ranks other than 0).
        leave: Whether the final state stays visible; False for a part of other work.
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
            # Without a terminal, tqdm only keeps the count and the time, and _print_line prints its text.
            file=io.StringIO() if self._plain else sys.stderr,
            bar_format=PLAIN_FORMAT if self._plain else None,
        )
        self._details: dict[str, str] = {}
        self._shown = initial  # count in the last plain line
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def advance(self, amount: int = 1, total: int | None = None, /, **details: str) -> None:
        """Add completed units of work.

        Args:
            amount: Number of units.
            total: The total amount of work, if it is known only now.
            details: Name → text, shown next to the bar.
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
        """Show the final state and end the display."""
        if self._plain and self._bar.leave and not self._bar.disable and self._bar.n != self._shown:
            self._print_line()
        self._bar.close()

    def _print_line(self) -> None:
        self._bar.set_postfix(self._details, refresh=False)
        say(str(self._bar).strip())
        self._shown, self._last_line = self._bar.n, time.monotonic()
