"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from tqdm import tqdm

PLAIN_LINE_SECONDS = 10.0
"""Least time between two plain lines, so that the log of a week-long job stays readable."""


class Progress:
    """A progress display on standard error, used as a context manager.

    Args:
        description: What is being done, in a word or two.
        total: Amount of work, in `unit`; None where it is not known.
        unit: Name of one unit of work, such as "step" or "B" (bytes).
        initial: Amount that was done before, by an interrupted run.
        scale: Whether large amounts are shown with k, M, G.
        enabled: False shows nothing (ranks other than 0).
    """

    def __init__(
        self,
        description: str,
        total: int | None,
        unit: str,
        initial: int = 0,
        scale: bool = False,
        enabled: bool = True,
    ):
        self._plain = enabled and not sys.stderr.isatty()
        self._bar = tqdm(
            desc=description,
            total=total,
            unit=unit,
            initial=initial,
            unit_scale=scale,
            dynamic_ncols=True,
            file=sys.stderr,
            disable=not enabled,
            # Without a terminal the bar only computes: its text is printed as plain lines below.
            gui=False,
            bar_format=None,
            mininterval=float("inf") if self._plain else 0.2,
        )
        self._details: dict[str, str] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def advance(self, amount: int = 1, **details: str) -> None:
        """Counts `amount` units as done and shows `details` (name → text) beside the bar."""
        self._details.update(details)
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
        """Prints a line of text without tearing the bar."""
        if self._bar.disable:
            return
        with tqdm.external_write_mode(file=sys.stderr):
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Shows the final state and ends the display."""
        if self._plain and not self._bar.disable:
            self._print_line()
            self._bar.disable = True  # keeps tqdm from drawing its bar at close
        self._bar.close()

    def _print_line(self) -> None:
        self._bar.set_postfix(self._details, refresh=False)
        print(self._bar, file=sys.stderr, flush=True)
        self._last_line = time.monotonic()
