"""Reduce a series of any length to a few hundred parts while it is read, so that its spikes stay visible."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
"""Step or tokens, and the value there."""
MOST_PARTS = 300
"""Parts of a series, at most twice as many: about one per pixel of a chart."""
SMOOTHED_PARTS = 50
"""A smoothed curve is the mean over one in this many of the parts. A series with fewer parts is not smoothed."""


@dataclass
class Bucket:
    """Values of neighbouring steps: how many, their sum, and the points of the lowest and the highest."""

    count: int
    total: float
    low: Point
    high: Point

    def join(self, other: "Bucket") -> None:
        """Take in the values of another part."""
        self.count += other.count
        self.total += other.total
        self.low = min(self.low, other.low, key=_value)
        self.high = max(self.high, other.high, key=_value)


class Decimated:
    """A series that keeps at most 2 · `most` parts of equal width, whatever its length.

    The width in steps doubles whenever the parts are too many. Up to 2 · `most` steps are kept as
    they are.

    Args:
        most: Half of the largest number of parts.
    """

    def __init__(self, most: int = MOST_PARTS):
        self._most, self._width = most, 1
        self._parts: dict[int, Bucket] = {}

    def add(self, step: int, value: float) -> None:
        """Add a value, in any order of the steps."""
        key = step // self._width
        part = self._parts.get(key)
        if part is None:
            self._parts[key] = Bucket(1, value, (step, value), (step, value))
            if len(self._parts) > 2 * self._most:
                self._halve()
            return
        part.count += 1
        part.total += value
        if value < part.low[1]:
            part.low = (step, value)
        elif value > part.high[1]:
            part.high = (step, value)

    def points(self) -> list[Point]:
        """Return the lowest and the highest point of each part, in the order of the steps."""
        found: list[Point] = []
        for part in self._ordered():
            found += sorted({part.low, part.high})
        return found

    def smoothed(self) -> list[Point]:
        """Return moving means, or an empty list if the series is short."""
        parts = list(self._ordered())
        reach = len(parts) // SMOOTHED_PARTS // 2 + 1
        if len(parts) < SMOOTHED_PARTS:
            return []
        found = []
        for number, part in enumerate(parts):
            near = parts[max(0, number - reach) : number + reach + 1]
            mean = sum(each.total for each in near) / sum(each.count for each in near)
            found.append(((part.low[0] + part.high[0]) / 2, mean))
        return found

    def _ordered(self) -> Iterator[Bucket]:
        return (self._parts[key] for key in sorted(self._parts))

    def _halve(self) -> None:
        """Double the width until at most `most` parts remain."""
        while len(self._parts) > self._most:
            self._width *= 2
            parts: dict[int, Bucket] = {}
            for each in self._ordered():
                known = parts.setdefault(int(each.low[0]) // self._width, each)
                if known is not each:
                    known.join(each)
            self._parts = parts


def interpolated(points: Sequence[Point], xs: Sequence[float]) -> list[float]:
    """Return the values at ascending `xs` on the line through points, which goes on beyond its ends.

    Args:
        points: At least one, ascending.
        xs: Where to read the line.
    """
    knots = points if len(points) > 1 else [(0.0, 0.0), *points]
    found, at = [], 0
    for x in xs:
        while at < len(knots) - 2 and knots[at + 1][0] < x:
            at += 1
        (left, low), (right, high) = knots[at], knots[at + 1]
        found.append(high if right <= left else low + (x - left) / (right - left) * (high - low))
    return found


def _value(point: Point) -> float:
    return point[1]
