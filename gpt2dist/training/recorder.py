"""Record a run on rank 0: in metrics.jsonl, and in trackers that receive the same values."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from gpt2dist.monitoring.trackers import Hyperparameters, Tracker, Trackers
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.metrics_file import Line, Metrics, cut_back
from gpt2dist.training.hooks import Hook, TrainerView, Values


class MetricsRecorder(Hook):
    """Recorder of a run on rank 0. Other ranks record nothing.

    Args:
        run: The run directory.
        trackers: Name used in messages → factory of the tracker.
        hyperparameters: Hyperparameters passed to the trackers.
    """

    def __init__(
        self, run: Path, trackers: Mapping[str, Callable[[], Tracker]], hyperparameters: Hyperparameters
    ):
        self._run = run
        self._trackers = Trackers(trackers)
        self._hyperparameters = hyperparameters
        self._metrics: Metrics | None = None  # on rank 0, while the run trains

    def start(self, trainer: TrainerView) -> None:
        """Drop the lines beyond the checkpoint, and open metrics.jsonl and the trackers. Collective.

        Raises:
            UserError: metrics.jsonl cannot be opened, or a tracker could not start.
        """
        trainer.world.on_main(partial(self._open, trainer.step, trainer.evaluation_done))

    def after_log(self, trainer: TrainerView, values: Values) -> None:
        """Record the values of a log interval."""
        self._write(trainer.step, values)

    def after_evaluation(self, trainer: TrainerView, values: Values) -> None:
        """Record the results of an evaluation, or samples."""
        self._write(trainer.step, values)

    def close(self, failed: bool) -> None:
        """Close metrics.jsonl and the trackers."""
        if self._metrics:
            self._metrics.close()
            self._trackers.close(failed)

    def _open(self, step: int, evaluation_done: bool) -> None:
        path = RunDirectory(self._run).metrics
        self._trackers.start(self._hyperparameters, self._run, cut_back(path, step, evaluation_done))
        self._metrics = Metrics(path)

    def _write(self, step: int, values: Values) -> None:
        if self._metrics:
            line: Line = {"step": step, "time": round(time.time(), 3), **values}
            self._metrics.write(line)
            self._trackers.send(line)
