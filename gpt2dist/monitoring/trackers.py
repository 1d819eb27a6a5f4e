"""Where else a run is shown: TensorBoard, W&B, MLflow or whatever follows one small protocol.

docs/guides/trackers.md has examples. A tracker hears what metrics.jsonl gets, on rank 0 only.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gpt2dist.errors import UserError
from gpt2dist.importing import import_attribute
from gpt2dist.monitoring.logs import logger
from gpt2dist.run.metrics_file import Line

Hyperparameters = dict[str, bool | int | float | str]
"""Dotted key of the configuration → what it resolved to."""


class Tracker(Protocol):
    """Shows a run. Its class is called without arguments.

    The training waits for each call, so what takes long (a network) belongs into a thread or a queue. A tracker
    that raises in `start` refuses the run before its first step; one that raises later is dropped with a word,
    and the run goes on.
    """

    def start(self, hyperparameters: Hyperparameters, run: Path, history: list[Line]) -> None:
        """Called once, before anything else.

        Args:
            hyperparameters: What decides the training, as resolved; flat, such as `optimizer.lr`.
            run: The run directory; `config.yaml` lies in it. The same path when the run goes on.
            history: The lines of metrics.jsonl that stay where a run goes on; empty for a new one. The steps
                after the last of them are logged again if they were logged before.
        """

    def log(self, step: int, time: float, values: dict[str, float]) -> None:
        """Takes numbers: several times for a step where it is evaluated too.

        Args:
            step: Optimizer steps done.
            time: Seconds since 1970.
            values: Tag, such as `train/loss`, → number, which may be infinite or NaN.
        """

    def text(self, step: int, time: float, tag: str, text: str) -> None:
        """Takes a sample of the model; tags are `samples/0` and so on."""

    def close(self, failed: bool) -> None:
        """Called once, on every way out but the death of the process.

        Args:
            failed: Whether an error ended the run; a run that is done, or was asked to stop, did not fail.
        """


METHODS = tuple(name for name in vars(Tracker) if not name.startswith("_"))


def load(name: str) -> Callable[[], Tracker]:
    """Imports the class of a tracker, looked for where Python looks and in the current directory.

    Args:
        name: `package.module:ClassName`.

    Raises:
        ValueError: Says why not, and the way out.
    """
    if ":" not in name.strip(":"):
        raise ValueError(f"{name!r} is not of the form package.module:ClassName")
    try:
        found: Callable[[], Tracker] = import_attribute(name)
    except Exception as error:  # whatever its module raises
        raise ValueError(
            f"{name} cannot be imported ({type(error).__name__}: {error}); install it, put its folder on "
            "PYTHONPATH, or leave it out"
        ) from error
    missing = [method for method in METHODS if not callable(getattr(found, method, None))]
    if missing:
        raise ValueError(f"{name} has no {missing[0]}(); a tracker has {', '.join(METHODS)}")
    return found


def tell(tracker: Tracker, line: Line) -> None:
    """Hands a line of metrics.jsonl to a tracker."""
    step, time = int(line["step"]), float(line["time"])
    told = {tag: value for tag, value in line.items() if tag not in ("step", "time") and value is not None}
    numbers = {tag: value for tag, value in told.items() if not isinstance(value, str)}
    if numbers:
        tracker.log(step, time, numbers)
    for tag, value in told.items():
        if isinstance(value, str):
            tracker.text(step, time, tag, value)


class Trackers:
    """The trackers of a run. None of them can end it once it trains.

    Args:
        classes: What makes a tracker, by the name that messages give it.
    """

    def __init__(self, classes: dict[str, Callable[[], Tracker]]):
        self._classes = classes
        self._at_work: dict[str, Tracker] = {}

    def start(self, hyperparameters: Hyperparameters, run: Path, history: list[Line]) -> None:
        """Starts all of them.

        Raises:
            UserError: One could not; those that had started are closed.
        """
        for name, make in self._classes.items():
            try:
                tracker = make()
                tracker.start(hyperparameters, run, history)
            except Exception as error:
                self.close(failed=True)
                raise UserError(
                    f"{name} could not start ({type(error).__name__}: {error}); repair it, or take it out of "
                    "the section monitoring"
                ) from error
            self._at_work[name] = tracker

    def tell(self, line: Line) -> None:
        """Hands them a line of metrics.jsonl."""
        self._each(lambda tracker: tell(tracker, line))

    def close(self, failed: bool) -> None:
        """Closes them."""
        self._each(lambda tracker: tracker.close(failed))
        self._at_work.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._at_work.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._at_work[name]
                logger.warning(
                    "%s failed (%s: %s) and is not told more of this run, which goes on; metrics.jsonl has "
                    "everything, the rank's log the traceback",
                    *(name, type(error).__name__, error),
                )
                logging.getLogger("trackers").warning("%s", name, exc_info=error)  # to the log only
