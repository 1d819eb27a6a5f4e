"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

import contextlib
import io
import sys
import time
from collections.abc import Iterator
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


def tell(text: str) -> None:
    """Prints a line on standard error: news, which --quiet leaves out, or a WARNING, which it does not."""
    if not _quiet or "WARNING: " in text:
        print(text, file=sys.stderr, flush=True)


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

    def advance(self, amount: int = 1, total: int | None = None, **details: str) -> None:
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

    def say(self, text: str) -> None:
        """Tells a line, as `tell`, without tearing the bar."""
        if not self._enabled:
            return
        on_screen = not self._plain and not self._bar.disable
        with tqdm.external_write_mode(file=sys.stderr) if on_screen else contextlib.nullcontext():
            tell(text)

    def close(self) -> None:
        """Shows the final state and ends the display."""
        if self._plain and self._bar.leave and not self._bar.disable and self._bar.n != self._shown:
            self._print_line()
        self._bar.close()

    def _print_line(self) -> None:
        self._bar.set_postfix(self._details, refresh=False)
        print(str(self._bar).strip(), file=sys.stderr, flush=True)
        self._shown, self._last_line = self._bar.n, time.monotonic()
