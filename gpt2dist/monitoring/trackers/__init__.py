"""Trackers: TensorBoard, W&B, MLflow or any other class that implements one small protocol.

A tracker receives what is written to metrics.jsonl, on rank 0 only. docs/guides/trackers.md describes them.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from gpt2dist.errors import UserError
from gpt2dist.monitoring.logs import logger
from gpt2dist.monitoring.trackers.backlog import Backlog
from gpt2dist.registry import Registry
from gpt2dist.run.metrics_file import Line, MetricsHistory

Hyperparameters = dict[str, bool | int | float | str]
"""Dotted key of the configuration → resolved value."""


class Tracker(Protocol):
    """Protocol of a tracker. Its class is called without arguments.

    Training waits for each call, so slow work such as network access belongs in a thread or a queue. If a tracker
    raises in `start`, the run fails before its first step. If it raises later, the tracker is dropped with a
    warning and the run continues.
    """

    def start(
        self, hyperparameters: Hyperparameters, run: Path, history: MetricsHistory
    ) -> Iterable[Line] | None:
        """Start tracking. Called once, before any other method.

        Other ranks wait for this call, and a long run has a million lines. So a tracker that needs them returns
        them instead of iterating over them.

        Args:
            hyperparameters: Resolved settings that determine the training, with flat keys such as `optimizer.lr`.
            run: The run directory, which contains `config.yaml`. A resumed run has the same path.
            history: The lines of metrics.jsonl that a resumed run keeps, to iterate over in either direction;
                empty for a new run. Later steps are logged again, even if they were logged before.

        Returns:
            The lines to log before those to come, such as `history`, some with each new line; None for none.
        """

    def log(self, step: int, time: float, values: dict[str, float]) -> None:
        """Record numbers. Called several times for a step that is also evaluated.

        Args:
            step: Optimizer steps done.
            time: Seconds since 1970.
            values: Tag, such as `train/loss`, → number, which may be infinite or NaN.
        """

    def text(self, step: int, time: float, tag: str, text: str) -> None:
        """Record a text sampled from the model. Tags are `samples/0` and so on."""

    def close(self, failed: bool) -> None:
        """End tracking. Called once when the run ends, unless the process is killed.

        Args:
            failed: Whether an error ended the run; False if the run completed or was asked to stop.
        """


BUILTIN = {
    "wandb": "gpt2dist.monitoring.trackers.wandb:WeightsAndBiases",
    "mlflow": "gpt2dist.monitoring.trackers.mlflow:MLflow",
}
TRACKERS: Registry[Callable[[], Tracker]] = Registry("tracker", "gpt2dist.trackers", BUILTIN, Tracker, BUILTIN)
"""Classes of trackers. TensorBoard is not among them: `monitoring.tensorboard` turns it on."""


def send(tracker: Tracker, line: Line) -> None:
    """Pass a line of metrics.jsonl to a tracker."""
    step, time = int(line["step"]), float(line["time"])
    values = {tag: value for tag, value in line.items() if tag not in ("step", "time") and value is not None}
    numbers = {tag: value for tag, value in values.items() if not isinstance(value, str)}
    if numbers:
        tracker.log(step, time, numbers)
    for tag, value in values.items():
        if isinstance(value, str):
            tracker.text(step, time, tag, value)


class Trackers:
    """The trackers of a run. After `start`, their errors cannot end the run.

    Args:
        classes: Name used in messages → factory of the tracker.
    """

    def __init__(self, classes: Mapping[str, Callable[[], Tracker]]):
        self._classes = classes
        self._at_work: dict[str, tuple[Tracker, Backlog]] = {}

    def start(self, hyperparameters: Hyperparameters, run: Path, history: MetricsHistory) -> None:
        """Start all trackers.

        Raises:
            UserError: A tracker could not start; those already started are closed.
        """
        for name, make in self._classes.items():
            try:
                tracker = make()
                missing = tracker.start(hyperparameters, run, history)
            except UserError as error:
                self.close(failed=True)
                raise UserError(f"monitoring.trackers: {name}: {error}") from error
            except Exception as error:
                self.close(failed=True)
                raise UserError(
                    f"{name} could not start ({type(error).__name__}: {error}); fix it, or remove it from "
                    "the section monitoring"
                ) from error
            self._at_work[name] = tracker, Backlog(missing or (), partial(send, tracker))

    def send(self, line: Line) -> None:
        """Pass a line of metrics.jsonl to all trackers."""
        self._each(lambda _, tracker, backlog: backlog.add(line))

    def close(self, failed: bool) -> None:
        """Close all trackers."""
        self._each(partial(_close, failed))
        self._at_work.clear()

    def _each(self, call: Callable[[str, Tracker, Backlog], None]) -> None:
        for name, (tracker, backlog) in list(self._at_work.items()):
            try:
                call(name, tracker, backlog)
            except Exception as error:
                del self._at_work[name]
                logger.warning(
                    "%s failed (%s: %s) and is disabled until the next start; the run continues. "
                    "metrics.jsonl has all values, the rank's log the traceback",
                    *(name, type(error).__name__, error),
                )
                logging.getLogger("trackers").warning("%s", name, exc_info=error)  # not to the terminal


def _close(failed: bool, name: str, tracker: Tracker, backlog: Backlog) -> None:
    """Close a tracker, also if it cannot take what is missing."""
    try:
        if not backlog.finish():
            logger.info("%s lacks the last lines of metrics.jsonl; the next start adds them", name)
    finally:
        tracker.close(failed)
