"""Record a run on rank 0: in metrics.jsonl, and in trackers that receive the same values."""

from collections.abc import Callable
from pathlib import Path

from gpt2dist.monitoring.trackers import Hyperparameters, Tracker, Trackers
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.metrics_file import Line, Metrics, Value, cut_back


class MetricsRecorder:
    """Recorder of a run; a context manager that closes metrics.jsonl and the trackers on exit.

    Args:
        run: The run directory.
        step: Steps that the run has done; records of later steps are dropped.
        evaluation_done: Whether evaluation and samples of that step were finished; if not, they are dropped too.
        trackers: Name used in messages → factory of the tracker.
        hyperparameters: Hyperparameters passed to the trackers.

    Raises:
        UserError: A tracker could not start.
    """

    def __init__(
        self,
        run: Path,
        step: int,
        evaluation_done: bool,
        trackers: dict[str, Callable[[], Tracker]],
        hyperparameters: Hyperparameters,
    ):
        path = RunDirectory(run).metrics
        self._trackers = Trackers(trackers)
        self._trackers.start(hyperparameters, run, cut_back(path, step, evaluation_done))
        self._metrics = Metrics(path)

    def __enter__(self) -> "MetricsRecorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._metrics.close()
        self._trackers.close(failed=kind is not None)

    def write(self, step: int, time: float, values: dict[str, Value]) -> None:
        """Record values of a step.

        Args:
            step: Optimizer steps done.
            time: Seconds since 1970.
            values: Tag → number or text.
        """
        line: Line = {"step": step, "time": round(time, 3), **values}
        self._metrics.write(line)
        self._trackers.send(line)
