"""A trace of some optimizer steps, for Perfetto, chrome://tracing and PyTorch's plugin of TensorBoard."""

from pathlib import Path

import torch
from torch import profiler

from gpt2dist.monitoring.logs import logger


class Profile:
    """Traces some optimizer steps of this rank.

    The step before them warms the profiler up, where there is one. What lies between the steps (evaluation, a
    save) is in the trace too. Nothing of the training changes by a bit. A run that goes on from within the steps,
    or from behind them, traces nothing.

    Args:
        path: The file to be written; ends with `.pt.trace.json.gz`, which viewers look for.
        steps: Which, counted from 1; an empty range traces nothing.
    """

    def __init__(self, path: Path, steps: range):
        self.path = path
        self.steps = steps
        self._profiler: profiler.profile | None = None

    def say_what_is_missed(self, done: int) -> None:
        """Says so where a run that goes on after `done` steps will not trace what it was asked to."""
        if self.steps and done >= self.steps.start and not self.path.exists():
            logger.warning(
                "monitoring.profile: step %d was done before this start, so it is not traced; set start to more "
                "than %d",
                *(self.steps.start, done),
            )

    def before_step(self, step: int) -> None:
        """Called before each optimizer step, with its number from 1."""
        if self._profiler:
            self._profiler.step()
            if step == self.steps.stop:
                self.close()
        elif self.steps and step in (self.steps.start - 1, self.steps.start):
            self._begin(warmup=self.steps.start - step)

    def close(self) -> None:
        """Ends tracing; where the run ends within the steps, those that were done are written."""
        if self._profiler:
            self._profiler.stop()
            self._profiler = None

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, warmup: int) -> None:
        activities = [profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(profiler.ProfilerActivity.CUDA)
        self._profiler = profiler.profile(
            activities=activities,
            schedule=profiler.schedule(wait=0, warmup=warmup, active=len(self.steps), repeat=1),
            on_trace_ready=self._write,
        )
        self._profiler.start()

    def _write(self, traced: profiler.profile) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            traced.export_chrome_trace(str(self.path))
        except OSError as error:  # not worth a run
            logger.warning("%s: the trace could not be written: %s", self.path, error)
        else:
            logger.info("traced from step %d on: %s", self.steps.start, self.path)
