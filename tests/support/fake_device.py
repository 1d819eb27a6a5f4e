"""A device that runs behind the host, and the clocks of both, which the test turns."""


class FakeDevice:
    """Time passes on the host only with `host`; queued work runs one after the other, as early as it can."""

    def __init__(self) -> None:
        self.now = 100.0
        self.free = 0.0
        self.waits = 0

    def host(self, seconds: float) -> None:
        """The host computes."""
        self.now += seconds

    def queue(self, seconds: float) -> None:
        """The host queues work and goes on."""
        self.free = max(self.free, self.now) + seconds

    def synchronize(self) -> None:
        """The host waits for all queued work."""
        self.waits += 1
        self.now = max(self.now, self.free)

    def monotonic(self) -> float:
        """The clock of the host."""
        return self.now

    def mark(self) -> float:
        """When an event that is queued now is reached."""
        return max(self.now, self.free)

    def seconds(self, begin: float, end: float) -> float:
        """The seconds between two events; waits for both."""
        self.waits += 1
        self.now = max(self.now, end)
        return end - begin
