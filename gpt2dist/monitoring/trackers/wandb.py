"""Weights & Biases tracker."""

import html
import io
import os
import uuid
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from time import monotonic

from gpt2dist.monitoring.trackers import Hyperparameters
from gpt2dist.monitoring.trackers.server_run import BestLosses, ServerRun
from gpt2dist.run.latest import best_checkpoint
from gpt2dist.run.metrics_file import MetricsHistory

UPLOAD_SECONDS = 120.0
"""Time in which W&B's own process uploads a value. If the training is killed, it loses what it still has."""


class WeightsAndBiases:
    """Tracker that keeps one W&B run for each run directory, through all of its starts.

    W&B's own variables, such as WANDB_PROJECT, WANDB_MODE and WANDB_DIR, are honoured.

    W&B refuses steps below its newest one. Values are therefore logged without W&B's step, and charts are drawn
    over the metric `step`.
    """

    def start(self, hyperparameters: Hyperparameters, run: Path, history: MetricsHistory) -> MetricsHistory:
        """Begin or continue the W&B run, and ask for the lines that it lacks.

        Offline, a killed start may leave nothing, and `wandb sync` of a later start replaces what the server has
        of the run. Each start then records the whole run, so that syncing the newest one is enough.
        """
        import wandb

        self._directory, self._wandb = run, wandb
        self._server_run = ServerRun(run, "wandb")
        offline = wandb.setup().settings.mode in ("offline", "dryrun")
        resumes = self._server_run.id is not None and not offline
        identity = self._server_run.id or os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "gpt2dist"),
            # A name that was changed on the server stays.
            name=None if resumes else os.environ.get("WANDB_NAME", run.name),
            dir=os.environ.get("WANDB_DIR", str(run)),
            config=dict(hyperparameters),
            allow_val_change=True,
            id=identity,
            resume=None if offline else "allow",
        )
        if not self._run.resumed:
            self._server_run.begin(self._run.id)  # in a notebook perhaps the one that is already active
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        self._uploading: deque[tuple[float, int, Mapping[str, float | str]]] = deque()
        have, missing = self._server_run.split(history)
        self._best = BestLosses(have)
        return missing

    def log(self, step: int, time: float, values: dict[str, float]) -> None:
        """Send numbers, and the lowest validation losses so far."""
        best = self._best.update(step, values)
        if self._server_run.is_new(step, values):
            self._run.log({**values, **best, "step": step, "_timestamp": time})
            self._note(step, values)

    def text(self, step: int, time: float, tag: str, text: str) -> None:
        """Send a text, which is shown verbatim."""
        if self._server_run.is_new(step, {tag: text}):
            page = self._wandb.Html(io.StringIO(f"<pre>{html.escape(text)}</pre>"))
            self._run.log({tag: page, "step": step, "_timestamp": time})
            self._note(step, {tag: text})

    def close(self, failed: bool) -> None:
        """Name the best checkpoint in the summary, and finish the upload."""
        if best := best_checkpoint(self._directory):
            self._run.summary["best/checkpoint"] = best
        self._run.finish(exit_code=int(failed))
        self._note_uploaded(older_than=0)

    def _note(self, step: int, values: Mapping[str, float | str]) -> None:
        """Note the values as sent after the time that their upload may take."""
        self._uploading.append((monotonic(), step, values))
        self._note_uploaded(UPLOAD_SECONDS)

    def _note_uploaded(self, older_than: float) -> None:
        while self._uploading and monotonic() - self._uploading[0][0] >= older_than:
            _, step, values = self._uploading.popleft()
            self._server_run.note(step, values)
