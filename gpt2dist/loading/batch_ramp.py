"""The size of each global batch of a run: constant, or growing at its start.

The size is a function of the samples consumed so far, as in Megatron-LM (`--rampup-batch-size`), so that the one
integer `consumed_samples` stays the whole state of the data. Early on small batches teach as much per step as
large ones (McCandlish et al. 2018).
"""

from bisect import bisect_right
from dataclasses import dataclass

MOST_SIZES = 10_000
"""A ramp of more would be slower to look up than it is worth."""


@dataclass(frozen=True)
class Ramp:
    """The growth of the global batch.

    Attributes:
        start: Windows of the first step.
        increment: Windows that each size has more than the one before.
        samples: Samples over which the sizes are spread evenly; behind them the batch has its full size.
    """

    start: int
    increment: int
    samples: int


@dataclass(frozen=True)
class Stage:
    """Steps of one size.

    Attributes:
        step: The first of them, from 0.
        sample: The first sample of that step.
        size: Windows per step.
    """

    step: int
    sample: int
    size: int


class BatchSizes:
    """Steps to samples and back.

    Args:
        full: Windows per step once the batch has grown.
        ramp: How it grows; None if it does not. `increment` divides `full` − `start` into at most MOST_SIZES.

    Raises:
        ValueError: The ramp does not lead to `full`.
    """

    def __init__(self, full: int, ramp: Ramp | None = None):
        self.full = full
        self.ramp = ramp
        self._increments = 0
        if ramp:
            self._increments, rest = divmod(full - ramp.start, ramp.increment)
            if rest or not 0 < self._increments < MOST_SIZES:
                raise ValueError(f"{ramp} does not lead to {full}")
        self.stages = self._stages()

    def at(self, consumed_samples: int) -> int:
        """Windows of the step that begins after so many samples."""
        if not self.ramp or consumed_samples >= self.ramp.samples:
            return self.full
        return self.ramp.start + self.ramp.increment * (consumed_samples * self._increments // self.ramp.samples)

    def samples(self, steps: int) -> int:
        """Samples of the first `steps` steps."""
        stage = self.stages[bisect_right(self.stages, steps, key=lambda each: each.step) - 1]
        return stage.sample + (steps - stage.step) * stage.size

    def steps(self, samples: int) -> int:
        """The fewest steps that have so many samples, or more."""
        stage = self.stages[bisect_right(self.stages, samples, key=lambda each: each.sample) - 1]
        return stage.step - (stage.sample - samples) // stage.size

    def _stages(self) -> tuple[Stage, ...]:
        """The sizes that steps have, with where each begins. A step may be longer than a size lasts."""
        stages: list[Stage] = []
        step = sample = 0
        for number in range(self._increments):
            ramp = self.ramp
            assert ramp
            until = -(-(number + 1) * ramp.samples // self._increments)  # the first sample of the next size
            if until <= sample:
                continue
            size = ramp.start + number * ramp.increment
            stages.append(Stage(step, sample, size))
            steps = -(-(until - sample) // size)
            step, sample = step + steps, sample + steps * size
        return (*stages, Stage(step, sample, self.full))
