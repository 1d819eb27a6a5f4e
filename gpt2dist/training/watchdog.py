"""End a rank that hangs, or whose launcher died."""

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from gpt2dist.errors import Gpt2distError

GRACE_SECONDS = 1.0
"""Between the word of a rank that hangs and its end."""
_PR_SET_PDEATHSIG = 1


def exit_with_parent() -> None:
    """Asks Linux for a SIGTERM when the process that started this one dies, so that no orphan trains on.

    Elsewhere it does nothing. The ranks then stop as for any SIGTERM: together, with everything saved.
    """
    parent = os.getppid()
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # it died before
        os.kill(os.getpid(), signal.SIGTERM)


class HungError(Gpt2distError):
    """A rank makes no progress."""


class Watchdog:
    """Ends a rank that makes no progress: it says so, then the stacks of all its threads go to its log.

    It watches from the first sign of life on. The end is a timer of the C library: it fires where Python itself
    hangs, and can say nothing. Every rank waits for a hung one or for a host that was cut off, so all of them
    notice, and a grace between word and end lets each say so before the first end breaks the connections.

    Args:
        log: The file that gets the stacks.
        seconds: Longest time between two signs of life.
        tell: Called with a HungError that says where the main thread is.
    """

    def __init__(self, log: Path, seconds: float, tell: Callable[[HungError], object]):
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("a")
        self._seconds = seconds
        self._tell = tell
        self._armed = float("-inf")
        self._told = False
        self._closed = threading.Event()
        self._teller: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._closed.set()
        if self._teller:
            self._teller.join()
        self._log.close()

    def alive(self) -> None:
        """A sign of life. Cheap: the timer is set anew once a second at most."""
        now = time.monotonic()
        if now - self._armed >= min(1.0, self._seconds / 4) and not self._told:
            faulthandler.dump_traceback_later(self._seconds + GRACE_SECONDS, exit=True, file=self._log)
            self._armed = now
        if not self._teller:
            self._teller = threading.Thread(target=self._watch, name="gpt2dist-watchdog", daemon=True)
            self._teller.start()

    def _watch(self) -> None:
        while (left := self._armed + self._seconds - time.monotonic()) > 0:
            if self._closed.wait(left):
                return
        self._told = True
        self._tell(
            HungError(
                f"no progress for {self._seconds:g} seconds, in {_place_of_main_thread()}: it hangs there, or "
                "waits for a rank that hangs, or whose host or network is down"
            )
        )


def _place_of_main_thread() -> str:
    frame = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident or 0])[-1]
    return f"{frame.name} ({Path(frame.filename).name}:{frame.lineno})"
