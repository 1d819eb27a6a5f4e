"""Trace some optimizer steps, for Perfetto, chrome://tracing and PyTorch's TensorBoard plugin."""

from pathlib import Path

import torch
from torch import profiler

from gpt2dist.monitoring.logs import logger


class Profile:
    """Tracer of some optimizer steps of this rank.

    The step before them, if there is one, warms up the profiler. Work between the steps (evaluation, saving) is
    traced too. Tracing does not change the training by a single bit. A run that resumes after the first traced
    step traces nothing.

    Args:
        path: The file to write; it must end with `.pt.trace.json.gz`, the suffix that viewers look for.
        steps: The steps to trace, counted from 1; an empty range traces nothing.
    """

    def __init__(self, path: Path, steps: range):
        self.path = path
        self.steps = steps
        self._profiler: profiler.profile | None = None

    def warn_if_missed(self, done: int) -> None:
        """Warn if a run that has done `done` steps has no trace and is too late to record it."""
        if self.steps and done >= self.steps.start and not self.path.exists():
            logger.warning(
                "monitoring.profile: step %d was done before this start, so it is not traced; set start to more "
                "than %d",
                *(self.steps.start, done),
            )

    def before_step(self, step: int) -> None:
        """Start, advance or end the trace. Call this before each optimizer step, with its 1-based number."""
        if self._profiler:
            self._profiler.step()
            if step == self.steps.stop:
                self.close()
        elif self.steps and step in (self.steps.start - 1, self.steps.start):
            self._begin(warmup=self.steps.start - step)

    def close(self) -> None:
        """End the trace. If the run ends within the steps, write those that were done."""
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
        except OSError as error:  # a missing trace is no reason to fail the run
            logger.warning("%s: the trace could not be written: %s", self.path, error)
        else:
            logger.info("traced from step %d on: %s", self.steps.start, self.path)
