"""End a rank that hangs, or whose launcher has exited."""

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
"""Seconds between the report of a hung rank and its exit."""
_PR_SET_PDEATHSIG = 1


def exit_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent process exits, so that no orphan continues to train.

    The ranks then stop as for any SIGTERM: together, with everything saved. On other systems it does nothing.
    """
    parent = os.getppid()
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # the parent exited before the call
        os.kill(os.getpid(), signal.SIGTERM)


class HungError(Gpt2distError):
    """A rank makes no progress."""


class Watchdog:
    """Watchdog that ends a rank without progress: it reports the hang, then dumps all thread stacks to the log.

    The first call of `alive` arms it. A timer in C (faulthandler) ends the process: it fires even if Python
    hangs, but cannot report. Every rank waits for a hung rank or an unreachable host, so all of them notice. The
    grace period lets each rank report before the first exit breaks the connections.

    Args:
        log: The file that receives the stacks.
        seconds: Maximum time between two calls of `alive`.
        on_hang: Called with a HungError that names the place of the main thread.
    """

    def __init__(self, log: Path, seconds: float, on_hang: Callable[[HungError], object]):
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("a")
        self._seconds = seconds
        self._on_hang = on_hang
        self._armed = float("-inf")
        self._reported = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._closed.set()
        if self._thread:
            self._thread.join()
        self._log.close()

    def alive(self) -> None:
        """Report progress. Cheap: the timer is reset once a second, or every `seconds` / 4 if that is shorter."""
        now = time.monotonic()
        if now - self._armed >= min(1.0, self._seconds / 4) and not self._reported:
            faulthandler.dump_traceback_later(self._seconds + GRACE_SECONDS, exit=True, file=self._log)
            self._armed = now
        if not self._thread:
            self._thread = threading.Thread(target=self._watch, name="gpt2dist-watchdog", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while (left := self._armed + self._seconds - time.monotonic()) > 0:
            if self._closed.wait(left):
                return
        self._reported = True
        self._on_hang(
            HungError(
                f"no progress for {self._seconds:g} seconds, in {_place_of_main_thread()}: it hangs there, or "
                "waits for a rank that hangs, or whose host or network is down"
            )
        )


def _place_of_main_thread() -> str:
    frame = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident or 0])[-1]
    return f"{frame.name} ({Path(frame.filename).name}:{frame.lineno})"
