"""Poll for stop and save requests, and feed the watchdog."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from gpt2dist.distributed import peer_monitor
from gpt2dist.distributed.world import BackgroundMaximum, World
from gpt2dist.errors import Gpt2distError, RunError
from gpt2dist.monitoring.logs import logger
from gpt2dist.monitoring.rank_times import RankTimes
from gpt2dist.training.exchange_schedule import ExchangeSchedule
from gpt2dist.training.watchdog import Watchdog

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ECHO_SECONDS = 2.0
"""Signals within this time count as one: a scheduler signals ranks directly and again through their launcher."""


class StopSignal:
    """Context manager for the main thread that receives SIGINT (Ctrl-C), SIGTERM and SIGUSR1.

    The first signal is stored in `name`, which training polls. A second signal ends the process immediately, even
    if the main thread hangs in a collective, because a separate thread waits for signals.

    Args:
        launched: Whether a launcher started this process, which forwards signals. Otherwise, a SIGINT that the
            process ignores stays ignored: a shell starts background jobs so, and Ctrl-C is not meant for them.
        on_second: Called with the name of the second signal before the process ends.
    """

    def __init__(self, launched: bool = False, on_second: Callable[[str], object] = lambda name: None) -> None:
        self.name = ""  # name of the first signal; empty before it
        self._since = 0.0
        self._launched = launched
        self._on_second = on_second

    def __enter__(self) -> "StopSignal":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        # With any Python handler installed, a signal's number is written to the wakeup descriptor on arrival.
        ignored = () if self._launched or signal.getsignal(signal.SIGINT) != signal.SIG_IGN else (signal.SIGINT,)
        numbers = [number for number in SIGNALS if number not in ignored]
        self._before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="gpt2dist-signals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._writer.close()  # ends the thread

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
            logger.info(
                "%s: the run saves everything and stops; a second signal ends it immediately, without saving",
                described(number.name),
            )
        elif now - self._since > ECHO_SECONDS:
            logger.error(
                "%s after %s: exiting immediately, without further saving",
                described(number.name),
                described(self.name),
            )
            peer_monitor.tell(StopRequestedError(f"{described(number.name)} after {described(self.name)}"))
            self._on_second(number.name)
            os._exit(128 + number)


def described(name: str) -> str:
    """Return the name of a signal for messages."""
    return f"Ctrl-C ({name})" if name == signal.SIGINT.name else name


class StopRequestedError(Gpt2distError):
    """A rank was asked to stop; all ranks raise this at the same place. The message is the signal's name."""


class StopCoordinator:
    """Exchange of stop and save requests between the ranks, and of the times that each rank has measured.

    The ranks exchange at the same polls, about once a second (`ExchangeSchedule`), so the cost of most polls does
    not depend on the number of ranks. A request takes effect on all ranks at the same poll, within a second of
    training or by the next poll but one.

    Args:
        world: This rank.
        signal: Receiver of this rank's signals.
        watchdog: Fed by each poll and save.
        save_minutes: Minutes between saves, by the clock of rank 0; None disables timed saves.

    Attributes:
        save_due: Whether a timed save is due, on all ranks.
        rank_times: Times of this rank to exchange, and those of all ranks.
    """

    def __init__(self, world: World, signal: StopSignal, watchdog: Watchdog, save_minutes: float | None):
        self.save_due = False
        self.rank_times = RankTimes(world.rank, world.size)
        self._world = world
        self._signal = signal
        self._watchdog = watchdog
        self._save_seconds = 60 * save_minutes if save_minutes and world.is_main else float("inf")
        self._saved_at = time.monotonic()
        self._maximum = BackgroundMaximum(world)
        self._schedule = ExchangeSchedule()
        self._failure = ""
        self._stop = False  # the same on all ranks

    def fail(self, reason: str) -> None:
        """End the run on all ranks, at the place where they would stop: `poll` raises a RunError there."""
        self._failure = reason

    def poll(self) -> None:
        """Exchange requests with the other ranks if that is due, and act on those that are known. Collective.

        Raises:
            StopRequestedError: A rank received a signal.
            RunError: A rank called `fail`.
        """
        self._watchdog.alive()
        self._schedule.count()
        if self._schedule.receives:
            self._receive()
        if self._schedule.sends and not self._stop:
            self._send()
            if self._world.size == 1:
                self._receive()
        if self._stop:
            if failure := self._world.first(self._failure):
                raise RunError(failure)
            raise StopRequestedError(self._world.first(self._signal.name) or "a signal")

    @contextlib.contextmanager
    def at_every_poll(self) -> Iterator[None]:
        """Exchange requests at every poll in this context, in which the time between polls is irregular."""
        self._schedule.every_poll = True
        try:
            yield
        finally:
            self._schedule.every_poll = False

    def _send(self) -> None:
        stop = bool(self._signal.name or self._failure)
        save = time.monotonic() - self._saved_at >= self._save_seconds
        self._maximum.send(stop, save, self._schedule.sent(), *self.rank_times.packed())

    def _receive(self) -> None:
        """Take the requests of the last exchange, unless they were taken before."""
        if maxima := self._maximum.settle():
            stop, save, micros, *times = maxima
            self._stop |= bool(stop)
            self.save_due |= bool(save)
            self._schedule.received(micros)
            self.rank_times.receive(times)

    def wait_until(self, is_done: Callable[[], bool], interruptible: bool) -> bool:
        """Wait for work of rank 0 beside the training, and feed the watchdog. Collective.

        Args:
            is_done: Called on rank 0 until it is true. It should wait for about a second.
            interruptible: Whether a signal to any rank ends the wait. False where a signal has stopped the run.

        Returns:
            Whether the work is done.
        """
        while True:
            self._watchdog.alive()
            mine = is_done() if self._world.is_main else False
            done, signalled = self._world.any(mine, bool(self._signal.name))
            if done or (interruptible and signalled):
                return done

    def saved(self) -> None:
        """Restart the timer after a save. Collective."""
        self._watchdog.alive()
        self._receive()
        self.save_due = False  # a request from before the save
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Wait for the pending exchange. Collective."""
        self._maximum.settle()
