"""Felt before each micro-batch and each batch of an evaluation: whether to stop, to save, and that we live."""

import time

from gpt2dist.distributed.world import Agreement, World
from gpt2dist.training.lifeline import StopSignal, Watchdog


class StopRequestedError(Exception):
    """A rank was asked to stop; all ranks raise this at the same place. The message is the signal's name."""


class Pulse:
    """What the ranks tell each other while they work.

    Args:
        world: This rank. Making a pulse is collective.
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
        self._agreement = Agreement(world)

    def beat(self) -> None:
        """Tells the others, and hears what they told a beat ago. Collective.

        Raises:
            StopRequestedError: A rank was signalled.
        """
        self._watchdog.alive()
        late = time.monotonic() - self._saved_at >= self._save_seconds
        stop, save = self._agreement.poll(bool(self._signal.name), late)
        self.save_due |= save
        if stop:
            self._agreement.settle()
            names = self._world.gather(self._signal.name)
            raise StopRequestedError(next(filter(None, names), "a signal"))

    def saved(self) -> None:
        """Starts the clock anew. Collective."""
        self._watchdog.alive()
        self._agreement.settle()  # what was wished before the save; a wish to stop is sent again
        self.save_due = False
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Waits for what is under way. Collective."""
        self._agreement.settle()
