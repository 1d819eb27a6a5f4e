"""The times of the slowest and the fastest rank, as the last lines of metrics.jsonl have them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpt2dist.status.run_files import number

PREFIX, SMALLEST, LARGEST, RANK = "time/", "_min", "_max", "_max_rank"


@dataclasses.dataclass(frozen=True)
class RankTime:
    """A time that each rank measured.

    Attributes:
        name: What was measured, such as "data_wait".
        smallest: The smallest time of all ranks, in seconds.
        largest: The largest time of all ranks, in seconds.
        rank: The rank that measured the largest time.
    """

    name: str
    smallest: float
    largest: float
    rank: int

    def described(self) -> str:
        """Return the times in one line."""
        return f"{self.name}: {self.largest:.3g} s on rank {self.rank}, {self.smallest:.3g} s on the fastest"


def last_rank_times(lines: Sequence[Mapping[str, Any]]) -> list[RankTime]:
    """Return the newest times of each name, by name; none if the run has one rank.

    Args:
        lines: The last lines of metrics.jsonl, oldest first.
    """
    newest = {each.name: each for line in lines for each in _of_line(line)}
    return [newest[name] for name in sorted(newest)]


def _of_line(line: Mapping[str, Any]) -> Iterator[RankTime]:
    for tag, rank in line.items():
        if tag.startswith(PREFIX) and tag.endswith(RANK) and isinstance(rank, int):
            stem = tag.removesuffix(RANK)
            smallest, largest = number(line.get(stem + SMALLEST)), number(line.get(stem + LARGEST))
            if smallest is not None and largest is not None:
                yield RankTime(stem.removeprefix(PREFIX), smallest, largest, rank)
