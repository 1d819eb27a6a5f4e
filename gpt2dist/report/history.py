"""Read what a run recorded over time, line by line: memory does not grow with the run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2dist.report.decimation import MOST_PARTS, Decimated
from gpt2dist.run import metrics_file
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.metrics_file import TRAINED
from gpt2dist.status.run_files import number

TOKENS = "progress/tokens"
RATE = "throughput/tokens_per_second"
NORM, LEARNING_RATE, SKIPPED = "train/grad_norm", "train/lr", "train/skipped_steps"
MEMORY = "memory/peak_gib"
GROUP_RATE = "train/lr_"
"""What the tags of the learning rates of other parameter groups begin with, such as train/lr_muon."""
MOST_GROUP_RATES = 8
"""Such tags that are charted."""
CHARTED = (TRAINED, TOKENS, RATE, NORM, LEARNING_RATE, SKIPPED, MEMORY)
KEPT_SAMPLES = 8
"""Samples of a prompt that are kept, at most twice as many, spread over the run."""
MOST_PROMPTS = 20
"""Prompts whose samples are kept."""
MOST_CHARACTERS = 2000
"""Characters of a sample that are kept."""


@dataclass
class Samples:
    """Samples of one prompt, thinned to every `stride`-th as the run grows; the last is always there."""

    kept: list[tuple[int, str]] = field(default_factory=list)
    last: tuple[int, str] | None = None
    count: int = 0
    stride: int = 1

    def add(self, step: int, text: str) -> None:
        """Add a sample."""
        cut = text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "…"
        self.last = (step, cut)
        if self.count % self.stride == 0:
            self.kept.append(self.last)
        self.count += 1
        if len(self.kept) > 2 * KEPT_SAMPLES:
            self.kept = self.kept[::2]
            self.stride *= 2

    def newest_first(self) -> list[tuple[int, str]]:
        """Return steps and texts."""
        found = list(reversed(self.kept))
        return found if self.last is None or self.last in found else [self.last, *found]


@dataclass
class History:
    """What a run recorded over time.

    Attributes:
        most: Half of the largest number of parts of a series.
        series: Tag → its values, for each of `CHARTED` and each learning rate that the run has.
        lost: Tag → number of log lines whose value was not finite.
        samples: Tag → the samples of a prompt.
        last: Tag → its newest value, for all tags that hold a number.
        times: Seconds since 1970 of the first and the last line; None if no line has a time.
    """

    most: int = MOST_PARTS
    series: dict[str, Decimated] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    samples: dict[str, Samples] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    times: tuple[float, float] | None = None

    def add(self, line: dict[str, Any]) -> None:
        """Take in a line of metrics.jsonl."""
        for tag, value in line.items():
            if isinstance(value, str):
                known = tag in self.samples or len(self.samples) < MOST_PROMPTS
                if tag.startswith("samples/") and known:
                    self.samples.setdefault(tag, Samples()).add(line["step"], value)
            elif (known_number := number(value)) is not None:
                self.last[tag] = known_number
        for tag in line:
            if tag in CHARTED or self._is_group_rate(tag):
                self._chart(tag, line["step"], number(line[tag]))
        when = number(line.get("time"))
        if when is not None:
            self.times = (self.times[0] if self.times else when, when)

    def group_rates(self) -> list[str]:
        """Return the tags of the learning rates of other parameter groups."""
        return sorted(tag for tag in self.series if tag.startswith(GROUP_RATE))

    def _is_group_rate(self, tag: str) -> bool:
        if not tag.startswith(GROUP_RATE):
            return False
        return tag in self.series or len(self.group_rates()) < MOST_GROUP_RATES

    def _chart(self, tag: str, step: int, value: float | None) -> None:
        if value is None:
            self.lost[tag] = self.lost.get(tag, 0) + 1
        else:
            self.series.setdefault(tag, Decimated(self.most)).add(step, value)


def read_history(run: Path, most: int = MOST_PARTS) -> History:
    """Read metrics.jsonl.

    Args:
        run: The run directory.
        most: Half of the largest number of parts of a series.

    Raises:
        UserError: The file cannot be read.
    """
    history = History(most)
    for line in metrics_file.stream(RunDirectory(run).metrics):
        history.add(line)
    return history
