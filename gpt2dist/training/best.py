"""Follow the metric of `checkpoint.keep_best`: which checkpoint is the best, and whether patience is at an end.

Both follow from metrics.jsonl and the checkpoints that exist. So a run that is killed at any moment, or resumes
from an earlier checkpoint, needs no other record. Checkpoints repeat what would otherwise need all lines.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.naming import checkpoint_name, finished, step_of
from gpt2dist.config import Config
from gpt2dist.evaluation import measures
from gpt2dist.monitoring.logs import logger
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.latest import write_best
from gpt2dist.run.metrics_file import MetricsHistory
from gpt2dist.training.hooks import Hook, TrainerView, Values

if TYPE_CHECKING:  # imports torch
    from gpt2dist.distributed.world import World

Point = tuple[int, float | None]
"""Step of an evaluation, and the metric if it is a finite number."""


class BestSoFar(Hook):
    """The best checkpoint by a metric, and the evaluations in a row that did not improve the metric.

    Args:
        config: The run's configuration.

    Attributes:
        tag: The metric: `checkpoint.keep_best`; None follows none.
        step: Step of the best checkpoint, which is perhaps still to be saved; None if there is none.
        waited: Evaluations in a row without an improvement.
    """

    def __init__(self, config: Config):
        self.tag = config.checkpoint.keep_best
        self.patience = config.evaluation.patience
        self.step: int | None = None
        self.waited = 0
        self._run = RunDirectory(config.output_dir)
        self._value: float | None = None  # at the best checkpoint
        self._record: float | None = None  # the best of all evaluations; its checkpoint may be gone
        self._sign = _sign(config, self.tag) if self.tag else 1

    @property
    def exhausted(self) -> bool:
        """Whether `evaluation.patience` ends the run."""
        return self.patience is not None and self.waited >= self.patience

    def begin(self, world: "World", step: int, evaluation_done: bool, saved: Mapping[str, Any]) -> None:
        """Take over the evaluations of earlier starts, and let `checkpoints/best` follow from them. Collective.

        Takes a few reads for each checkpoint that exists, however long the run is.

        Args:
            world: This rank.
            step: Optimizer steps done.
            evaluation_done: Whether the evaluation of that step is done; if not, it will be repeated.
            saved: The result of `state` in the checkpoint of this run that was loaded. If it is empty, as in
                checkpoints of earlier versions, or of another metric, all lines are read.
        """
        if not self.tag:
            return
        self._record, self.waited, points = world.on_main(lambda: self._read(step, evaluation_done, saved))
        for at, value in points:
            self._add_saved(at, value)
        world.on_main(self._write)

    def state(self) -> dict[str, Any]:
        """Return what `begin` needs at the next start; empty if no metric is followed."""
        return {"metric": self.tag, "record": self._record, "waited": self.waited} if self.tag else {}

    def after_evaluation(self, trainer: TrainerView, values: Values) -> None:
        """Compare the metric with the best so far. Collective."""
        if not self.tag or not self._is_evaluation(values):
            return
        value = trainer.world.from_main(measures.finite(values.get(self.tag)))
        if value is None:
            logger.warning("step %d: %s has no finite value, so it cannot be the best", trainer.step, self.tag)
        self._add(value)
        self._add_saved(trainer.step, value)  # it is saved if it is the best

    def __str__(self) -> str:
        if self.step is None or self._value is None:
            return "no checkpoint is the best"
        return f"the best is {checkpoint_name(self.step)} with {self._value:.4f}"

    def _add(self, value: float | None) -> None:
        """Count an evaluation with this value of the metric."""
        improved = self._is_better(value, self._record)
        self.waited = 0 if improved else self.waited + 1
        self._record = value if improved else self._record

    def _add_saved(self, step: int, value: float | None) -> None:
        """Compare a checkpoint with the best one so far."""
        if self._is_better(value, self._value):
            self.step, self._value = step, value

    def _is_better(self, value: float | None, than: float | None) -> bool:
        return value is not None and (than is None or self._sign * value < self._sign * than)

    def _read(
        self, step: int, evaluation_done: bool, saved: Mapping[str, Any]
    ) -> tuple[float | None, int, list[Point]]:
        """Return the record and the evaluations since, and the evaluations of the checkpoints that exist."""
        assert self.tag
        history = MetricsHistory(self._run.metrics).up_to(step, evaluation_done)
        record, waited = measures.finite(saved.get("record")), saved.get("waited")
        if saved.get("metric") == self.tag and type(waited) is int:
            self._record, self.waited = record, waited
        else:
            for line in history.containing(_prefix(self.tag)):
                self._add(measures.finite(line.get(self.tag)))
        whole = (path for path in finished(self._run.checkpoints) if (path / manifest.NAME).is_file())
        lines = (line for path in whole for line in history.at(step_of(path)) if self._is_evaluation(line))
        return self._record, self.waited, [(line["step"], measures.finite(line.get(self.tag))) for line in lines]

    def _is_evaluation(self, tags: Iterable[str]) -> bool:
        """Return whether these tags are of an evaluation of the metric's set."""
        return self.tag is not None and any(tag.startswith(_prefix(self.tag)) for tag in tags)

    def _write(self) -> None:
        """Name the best checkpoint, or none if the one that was named is not of this continuation."""
        if self.step is None:
            self._run.best.unlink(missing_ok=True)
        else:
            write_best(self._run.checkpoints, checkpoint_name(self.step))


def _prefix(tag: str) -> str:
    """Return what the tags of an evaluation begin with: "eval/val/" for eval/val/loss."""
    return tag[: tag.rindex("/") + 1]


def _sign(config: Config, tag: str) -> int:
    """Return 1 if lower values of the metric are better, else -1."""
    found = {each.key: each for each in measures.in_use("text", config.evaluation.measures)}
    return 1 if found[tag.rpartition("/")[2]].better == "lower" else -1
