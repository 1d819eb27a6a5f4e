"""A training hook for `time_to_loss.py`: record the CPU time of training beside each evaluation."""

import time
from collections.abc import Iterator

from gpt2dist.training.engine import StepResult
from gpt2dist.training.hooks import Hook, TrainerView, Values

TAG = "bench/cpu_seconds"


class CpuClock(Hook):
    """Clock of the CPU time of all ranks, with their threads, from the first step on and without evaluations."""

    def start(self, trainer: TrainerView) -> None:
        """Start the clock."""
        self._seconds = 0.0
        self._mark = time.process_time()

    def after_step(self, trainer: TrainerView, result: StepResult) -> None:
        """Add the time of the step."""
        self._add()

    def after_log(self, trainer: TrainerView, values: Values) -> None:
        """Add the time of the log."""
        self._add()

    def evaluate(self, trainer: TrainerView) -> Iterator[Values]:
        """Yield the CPU time where the validation sets were evaluated, just before this call. Collective."""
        every = trainer.config.evaluation.every_steps
        if trainer.step == trainer.plan.total_steps or trainer.is_due(every):
            yield {TAG: sum(trainer.world.gather(self._seconds))}
        self._mark = time.process_time()

    def _add(self) -> None:
        now = time.process_time()
        self._seconds += now - self._mark
        self._mark = now
