"""Times that each rank has measured: the smallest, the largest, and the rank that has it.

A maximum over the ranks of a few integers gives all three: an integer has the time in its upper bits, and the
rank in its lower ones. So the times travel with a reduction that is made anyway, in O(1) bytes for any number of
ranks. Does not import torch.
"""

from collections.abc import Mapping, Sequence

NAMES = ("step", "forward", "data_wait", "save")
"""What is measured, in seconds; docs/reference/run-directory.md says of what."""

_RANK_BITS = 20
_RANK_MASK = (1 << _RANK_BITS) - 1
_MOST_MICROS = (1 << 42) - 1  # 50 days


class RankTimes:
    """The times of this rank on their way to the others, and the extremes over all ranks.

    Args:
        rank: This rank, below 2²⁰.
        size: Number of ranks.
    """

    def __init__(self, rank: int, size: int):
        self._rank = rank
        self._size = size
        self._own: dict[str, float] = {}
        self._extremes: dict[str, float] = {}

    def note(self, seconds: Mapping[str, float]) -> None:
        """Set times of this rank, to be sent next. All ranks set the same ones of `NAMES` at the same point."""
        self._own.update(seconds)

    def packed(self) -> list[int]:
        """Return what to send: two integers of 62 bits for each name, zeros if no new time was set."""
        out = []
        for name in NAMES:
            if name not in self._own:
                out += [0, 0]
                continue
            micros = min(_MOST_MICROS, max(0, round(1e6 * self._own[name])))
            rank = _RANK_MASK - self._rank  # so that of equal times, that of the lowest rank is the maximum
            out += [micros << _RANK_BITS | rank, (_MOST_MICROS - micros) << _RANK_BITS | rank]
        self._own.clear()
        return out

    def receive(self, maxima: Sequence[int]) -> None:
        """Take the maxima over the ranks of what they have sent."""
        for name, largest, smallest in zip(NAMES, maxima[::2], maxima[1::2], strict=True):
            if largest:
                self._extremes |= {
                    f"time/{name}_min": (_MOST_MICROS - (smallest >> _RANK_BITS)) / 1e6,
                    f"time/{name}_max": (largest >> _RANK_BITS) / 1e6,
                    f"time/{name}_max_rank": _RANK_MASK - (largest & _RANK_MASK),
                }

    def take(self) -> dict[str, float]:
        """Return the extremes by tag that have arrived since the last call; empty for a single rank."""
        taken, self._extremes = self._extremes, {}
        return taken if self._size > 1 else {}
