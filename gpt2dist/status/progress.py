"""Read from the last lines of metrics.jsonl how far a run is."""

from pathlib import Path
from typing import NamedTuple

from gpt2dist.run.metrics_file import TRAINED, Line, read_tail
from gpt2dist.status.rank_times import RankTime, last_rank_times
from gpt2dist.status.run_files import number, unless_known


class RunProgress(NamedTuple):
    """What the last hundred or so lines say. Small, since a watch over many runs keeps it for each.

    Attributes:
        last: The last training line; empty without one.
        times: Times of the lines, in seconds since 1970.
        trained: Step and time of the training lines.
        rank_times: Times of the slowest and the fastest rank.
    """

    last: Line
    times: list[float]
    trained: list[tuple[int, float]]
    rank_times: list[RankTime]


@unless_known
def read_progress(path: Path) -> RunProgress:
    """Read the end of a metrics.jsonl; without a readable file, all is empty."""
    try:
        lines = read_tail(path, TRAINED)
    except (OSError, ValueError):
        lines = []
    timed = [(line, time) for line in lines if (time := number(line.get("time")))]
    return RunProgress(
        last=next((line for line in reversed(lines) if TRAINED in line), {}),
        times=[time for _, time in timed],
        trained=[(line["step"], time) for line, time in timed if TRAINED in line],
        rank_times=last_rank_times(lines),
    )
