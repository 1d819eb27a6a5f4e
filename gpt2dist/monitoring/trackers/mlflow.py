"""MLflow tracker."""

import os
import re
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from gpt2dist.errors import UserError
from gpt2dist.monitoring.trackers import Hyperparameters
from gpt2dist.monitoring.trackers.server_run import BestLosses, ServerRun
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.latest import best_checkpoint
from gpt2dist.run.metrics_file import MetricsHistory

MOST_PARAMETERS = 100
"""Limit of MLflow for the parameters of one request."""
MOST_METRICS = 1000
"""Likewise for metrics."""


class _Line(NamedTuple):
    """Values of a step that wait to be sent: metrics, or a text with the path of its file."""

    step: int
    values: Mapping[str, float | str]
    metrics: list[Any]
    text: str = ""
    path: str = ""


class MLflow:
    """Tracker that keeps one MLflow run for each run directory, through all of its starts.

    MLflow's own variables, such as MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME, are honoured.

    A thread sends the values, since a request may take long. It notes what has arrived: what was lost in a crash
    is sent at the next start.
    """

    def start(self, hyperparameters: Hyperparameters, run: Path, history: MetricsHistory) -> MetricsHistory:
        """Begin or continue the MLflow run, and ask for the lines that it lacks.

        Raises:
            UserError: The store does not have the run that the earlier starts began.
        """
        import mlflow

        self._directory, self._mlflow, self._client = run, mlflow, mlflow.MlflowClient()
        self._server_run = ServerRun(run, "mlflow")
        known = self._known_parameters()
        if self._server_run.id is None and not _experiment_is_set():
            mlflow.set_experiment("gpt2dist")
        if (active := mlflow.active_run()) and active.info.run_id == self._server_run.id:
            mlflow.end_run()  # left by a start in this process that failed
        about = mlflow.start_run(run_id=self._server_run.id, run_name=run.name).info
        self._id: str = about.run_id
        if self._server_run.id is None:
            self._server_run.begin(self._id)
        self._tokens: float | None = None
        self._waiting: deque[_Line] = deque()
        self._sender = ThreadPoolExecutor(1, "mlflow")
        self._error: Exception | None = None  # the first one of the thread
        self._log_parameters(hyperparameters, known, next((line["step"] for line in reversed(history)), 0))
        if (config := RunDirectory(run).config).exists():
            self._client.log_artifact(self._id, str(config))
        have, missing = self._server_run.split(history)
        self._best = BestLosses(have)
        return missing

    def log(self, step: int, time: float, values: dict[str, float]) -> None:
        """Send numbers, and the lowest validation losses so far."""
        from mlflow.entities import Metric

        shown, milliseconds = values | self._best.update(step, values), int(1000 * time)
        tokens = values.get("progress/tokens")
        if tokens is not None and tokens == self._tokens:
            del shown["progress/tokens"]  # several lines of a step may contain it; one point is enough
        self._tokens = tokens if tokens is not None else self._tokens
        metrics = [Metric(_allowed(tag), value, milliseconds, step) for tag, value in shown.items()]
        self._send(_Line(step, values, metrics))

    def text(self, step: int, time: float, tag: str, text: str) -> None:
        """Send a text as an artifact."""
        path = f"{_allowed(tag)}/step-{step:08d}.txt"
        self._send(_Line(step, {tag: text}, [], text, path))

    def close(self, failed: bool) -> None:
        """Wait until all is sent, name the best checkpoint in a tag, and end the MLflow run."""
        self._sender.shutdown()
        if best := best_checkpoint(self._directory):
            self._client.set_tag(self._id, "best.checkpoint", best)
        self._mlflow.end_run("FAILED" if failed else "FINISHED")
        if self._error:
            raise self._error

    def _known_parameters(self) -> dict[str, str]:
        """Return the parameters that the MLflow run has; empty if it does not exist yet."""
        if self._server_run.id is None:
            return {}
        try:
            known: dict[str, str] = self._client.get_run(self._server_run.id).data.params
        except self._mlflow.exceptions.MlflowException as error:
            raise UserError(
                f"{self._mlflow.get_tracking_uri()} does not give the run {self._server_run.id} of the earlier "
                f"starts ({error}); set MLFLOW_TRACKING_URI to their store, or move "
                f"{self._server_run.directory} away to begin a new run with the whole history"
            ) from error
        return known

    def _log_parameters(self, hyperparameters: Hyperparameters, known: dict[str, str], step: int) -> None:
        """Log new parameters. MLflow does not let a parameter change, so a changed one becomes a tag."""
        from mlflow.entities import Param

        values = {_allowed(key): str(value) for key, value in hyperparameters.items()}
        new = [Param(key, value) for key, value in values.items() if key not in known]
        for begin in range(0, len(new), MOST_PARAMETERS):
            self._client.log_batch(self._id, params=new[begin : begin + MOST_PARAMETERS])
        for key, value in values.items():
            if key in known and known[key] != value:
                self._client.set_tag(self._id, f"changed.{key}", f"{value} from step {step}")

    def _send(self, line: _Line) -> None:
        """Let the thread send a line, unless the run has it; raise the error of an earlier one."""
        if self._error:
            raise self._error
        if self._server_run.is_new(line.step, line.values):
            self._waiting.append(line)
            self._sender.submit(self._work)

    def _work(self) -> None:
        """Send what waits, in the thread. Metrics of several lines share a request: a history has many."""
        try:
            while self._waiting and not self._error:
                lines = self._take()
                if lines[0].path:
                    self._client.log_text(self._id, lines[0].text, lines[0].path)
                else:
                    self._client.log_batch(self._id, metrics=[each for line in lines for each in line.metrics])
                for line in lines:
                    self._server_run.note(line.step, line.values)
        except Exception as error:
            self._error = error

    def _take(self) -> list[_Line]:
        """Take one text, or as many lines of metrics as a request may have."""
        lines = [self._waiting.popleft()]
        room = MOST_METRICS - len(lines[0].metrics)
        while not lines[0].path and self._waiting and 0 < len(self._waiting[0].metrics) <= room:
            lines.append(self._waiting.popleft())
            room -= len(lines[-1].metrics)
        return lines


def _experiment_is_set() -> bool:
    return any(os.environ.get(name) for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"))


def _allowed(name: str) -> str:
    """Replace the characters that MLflow refuses in names of metrics, parameters and files."""
    return re.sub(r"[^\w./ :-]", "_", name)
