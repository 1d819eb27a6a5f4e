"""When the ranks exchange requests to stop or save: the same polls on all ranks. Does not import torch."""

import time
from collections.abc import Callable

SECONDS = 1.0
"""A request is known to all ranks after this time, or after a poll if that takes longer."""
PART_UNDER_WAY = 8
"""An exchange may take an eighth of the time between two exchanges before a rank waits for it."""
WARM_UP_POLLS = 64
"""Polls that are not yet typical: kernels are compiled, and queues to the device fill."""


class ExchangeSchedule:
    """Schedule of exchanges among polls, such that an exchange takes place about once a second.

    Clocks differ between ranks, so no rank may decide by its own clock. Each measures the time of a poll and
    sends it with the exchange. From the longest time of any rank, all compute the number of polls to the next
    exchange. It at most doubles each time, so that an untypical measurement has little effect, and drops at once.

    At each poll, call `count`, then act on `receives`, then on `sends`.

    Args:
        clock: Returns the time in seconds.

    Attributes:
        every_poll: Whether to exchange at each poll, as where polls take different times. The same on all ranks.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.every_poll = False
        self._clock = clock
        self._sent_at = clock()
        self._polls = 0
        self._interval = 1  # polls from one exchange to the next
        self._since = 1  # polls since the last exchange

    def count(self) -> None:
        """Count a poll."""
        self._polls += 1
        self._since += 1

    @property
    def receives(self) -> bool:
        """Whether to wait for the last exchange at this poll, if that has not been done."""
        return self.every_poll or self._since >= max(1, self._interval // PART_UNDER_WAY)

    @property
    def sends(self) -> bool:
        """Whether to begin an exchange at this poll. The last one must have been received."""
        return self.every_poll or self._since >= self._interval

    def sent(self) -> int:
        """Begin to count towards the next exchange.

        Returns:
            Microseconds of a poll by the clock of this rank, to send to the others; 0 if they are not typical.
        """
        now, polls = self._clock(), self._since
        micros = 0 if self.every_poll else max(1, round(1e6 * (now - self._sent_at) / polls))
        self._sent_at, self._since = now, 0
        return micros

    def received(self, micros: int) -> None:
        """Set the number of polls to the next exchange, from the longest time that any rank has sent."""
        if micros and self._polls > WARM_UP_POLLS:
            under_way = 1 + 1 / PART_UNDER_WAY
            self._interval = max(1, min(2 * self._interval, int(1e6 * SECONDS / (micros * under_way))))
