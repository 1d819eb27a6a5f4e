"""The size of each global batch of a run: constant, or growing at the start of the run.

The size depends only on the samples consumed so far, as in Megatron-LM (`--rampup-batch-size`). The integer
`consumed_samples` thus remains the whole state of the data. Early in training, small batches make as much
progress per step as large ones (McCandlish et al. 2018).
"""

from bisect import bisect_right
from dataclasses import dataclass

MOST_SIZES = 10_000
"""Maximum number of sizes in a ramp, which keeps lookups fast."""


@dataclass(frozen=True)
class Ramp:
    """Growth of the global batch.

    Attributes:
        start: Windows in the first step.
        increment: Windows by which each size exceeds the previous one.
        samples: Samples over which the sizes are spread evenly. After them, the batch has its full size.
    """

    start: int
    increment: int
    samples: int


@dataclass(frozen=True)
class Stage:
    """Consecutive steps of one size.

    Attributes:
        step: The first step, 0-based.
        sample: The first sample of that step.
        size: Windows per step.
    """

    step: int
    sample: int
    size: int


@dataclass(frozen=True)
class Origin:
    """Point of a run at which its current batch sizes and data begin. It is the start, unless they were changed.

    Attributes:
        step: Optimizer steps before it.
        samples: Samples consumed before it.
        targets: Targets trained on before it.
        data_from: Samples consumed before the first sample of the current data.
    """

    step: int = 0
    samples: int = 0
    targets: int = 0
    data_from: int = 0


class BatchSizes:
    """Conversion between steps and samples.

    Args:
        full: Windows per step after the ramp.
        ramp: Growth of the batch; None if it is constant. The ramp must reach `full` in whole increments, fewer
            than MOST_SIZES.
        origin: Where these sizes begin. Earlier steps had others, so they cannot be converted.

    Raises:
        ValueError: The ramp does not reach `full`, or has too many increments.
    """

    def __init__(self, full: int, ramp: Ramp | None = None, origin: Origin = Origin()):
        self.full = full
        self.ramp = ramp
        self.origin = origin
        self._increments = 0
        if ramp:
            self._increments, rest = divmod(full - ramp.start, ramp.increment)
            if rest or not 0 < self._increments < MOST_SIZES:
                raise ValueError(f"{ramp} does not lead to {full}")
        self.stages = self._stages()

    def at(self, consumed_samples: int) -> int:
        """Return the number of windows in the step that starts after `consumed_samples` samples."""
        if not self.ramp or consumed_samples >= self.ramp.samples:
            return self.full
        return self.ramp.start + self.ramp.increment * (consumed_samples * self._increments // self.ramp.samples)

    def samples(self, steps: int) -> int:
        """Return the number of samples in the first `steps` steps."""
        stage = self.stages[max(0, bisect_right(self.stages, steps, key=lambda each: each.step) - 1)]
        return stage.sample + (steps - stage.step) * stage.size

    def steps(self, samples: int) -> int:
        """Return the smallest number of steps with at least `samples` samples."""
        stage = self.stages[max(0, bisect_right(self.stages, samples, key=lambda each: each.sample) - 1)]
        return stage.step - (stage.sample - samples) // stage.size

    def _stages(self) -> tuple[Stage, ...]:
        """Return the stages. A step can be longer than a size lasts; a size that no step starts in is skipped."""
        stages: list[Stage] = []
        step, sample = self.origin.step, self.origin.samples
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
