"""Poll for stop and save requests, and feed the watchdog."""

import os
import signal
import socket
import threading
import time
from types import TracebackType

from gpt2dist.distributed.world import FlagExchange, World
from gpt2dist.errors import Gpt2distError
from gpt2dist.monitoring.logs import logger
from gpt2dist.training.watchdog import Watchdog

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
ECHO_SECONDS = 2.0
"""A scheduler signals a launcher and its ranks, and the launcher its ranks: within this time it is one signal."""


class StopSignal:
    """Notices SIGTERM and SIGUSR1; a context manager of the main thread.

    The first one is remembered for the training to ask about. A second one ends the process at once, even where
    the main thread hangs in a collective: a thread of its own waits for them.
    """

    def __init__(self) -> None:
        self.name = ""  # of the first signal; empty before
        self._since = 0.0

    def __enter__(self) -> "StopSignal":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        # With any handler in Python, the number of the signal goes to the wakeup descriptor as it arrives.
        self._before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="gpt2dist-signals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._writer.close()  # which ends the thread

    def _watch(self) -> None:
        with self._reader:
            while received := self._reader.recv(1):
                if received[0] in SIGNALS:
                    self._notice(signal.Signals(received[0]))

    def _notice(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if not self.name:
            self._since = now
            self.name = number.name
        elif now - self._since > ECHO_SECONDS:
            logger.error("%s after %s: ending at once, without saving", number.name, self.name)
            os._exit(128 + number)


class StopRequestedError(Gpt2distError):
    """A rank was asked to stop; all ranks raise this at the same place. The message is the signal's name."""


class StopCoordinator:
    """What the ranks tell each other while they work.

    Args:
        world: This rank. Making a coordinator is collective.
        signal: This rank's signals.
        watchdog: Ends the rank when it is not felt for too long.
        save_minutes: Time between two saves, by the clock of rank 0; None leaves the clock alone.
    """

    def __init__(self, world: World, signal: StopSignal, watchdog: Watchdog, save_minutes: float | None):
        self.save_due = False
        self._world = world
        self._signal = signal
        self._watchdog = watchdog
        self._save_seconds = 60 * save_minutes if save_minutes and world.is_main else float("inf")
        self._saved_at = time.monotonic()
        self._exchange = FlagExchange(world)

    def poll(self) -> None:
        """Exchange requests with the other ranks, and act on those of the last poll. Collective.

        Raises:
            StopRequestedError: A rank was signalled.
        """
        self._watchdog.alive()
        late = time.monotonic() - self._saved_at >= self._save_seconds
        stop, save = self._exchange.poll(bool(self._signal.name), late)
        self.save_due |= save
        if stop:
            self._exchange.settle()
            names = self._world.gather(self._signal.name)
            raise StopRequestedError(next(filter(None, names), "a signal"))

    def saved(self) -> None:
        """Starts the clock anew. Collective."""
        self._watchdog.alive()
        self._exchange.settle()  # what was wished before the save; a wish to stop is sent again
        self.save_due = False
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Waits for what is under way. Collective."""
        self._exchange.settle()
