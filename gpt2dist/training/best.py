"""Follow the metric of `checkpoint.keep_best`: which checkpoint is the best, and whether patience is at an end.

Both follow from metrics.jsonl and the checkpoints that exist. So a run that is killed at any moment, or resumes
from an earlier checkpoint, needs no other record.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.naming import checkpoint_name, finished, step_of
from gpt2dist.config import Config
from gpt2dist.evaluation import measures
from gpt2dist.monitoring.logs import logger
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.latest import write_best
from gpt2dist.run.metrics_file import Line, lines_up_to
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

    def begin(self, world: "World", step: int, evaluation_done: bool) -> None:
        """Take over the evaluations of earlier starts, and let `checkpoints/best` follow from them. Collective.

        Args:
            world: This rank.
            step: Optimizer steps done.
            evaluation_done: Whether the evaluation of that step is done; if not, it will be repeated.
        """
        if not self.tag:
            return
        points, saved = world.on_main(lambda: self._read(step, evaluation_done))
        for at, value in points:
            self._add(at, value, saved=at in saved)
        world.on_main(self._write)

    def after_evaluation(self, trainer: TrainerView, values: Values) -> None:
        """Compare the metric with the best so far. Collective."""
        if not self.tag or not any(tag.startswith(_prefix(self.tag)) for tag in values):
            return
        value = trainer.world.from_main(measures.finite(values.get(self.tag)))
        if value is None:
            logger.warning("step %d: %s has no finite value, so it cannot be the best", trainer.step, self.tag)
        self._add(trainer.step, value, saved=True)

    def __str__(self) -> str:
        if self.step is None or self._value is None:
            return "no checkpoint is the best"
        return f"the best is {checkpoint_name(self.step)} with {self._value:.4f}"

    def _add(self, step: int, value: float | None, saved: bool) -> None:
        """Add an evaluation.

        Args:
            step: Its step.
            value: The metric.
            saved: Whether the checkpoint of that step exists, or is saved if it is the best.
        """
        improved = self._is_better(value, self._record)
        self.waited = 0 if improved else self.waited + 1
        self._record = value if improved else self._record
        if saved and self._is_better(value, self._value):
            self.step, self._value = step, value

    def _is_better(self, value: float | None, than: float | None) -> bool:
        return value is not None and (than is None or self._sign * value < self._sign * than)

    def _read(self, step: int, evaluation_done: bool) -> tuple[list[Point], set[int]]:
        """Return the evaluations up to a step, and the steps of the checkpoints that exist."""
        assert self.tag
        lines = lines_up_to(self._run.metrics, step, evaluation_done)
        whole = (path for path in finished(self._run.checkpoints) if (path / manifest.NAME).is_file())
        return list(_points(lines, self.tag)), {step_of(path) for path in whole}

    def _write(self) -> None:
        """Name the best checkpoint, or none if the one that was named is not of this continuation."""
        if self.step is None:
            self._run.best.unlink(missing_ok=True)
        else:
            write_best(self._run.checkpoints, checkpoint_name(self.step))


def _prefix(tag: str) -> str:
    """Return what the tags of an evaluation begin with: "eval/val/" for eval/val/loss."""
    return tag[: tag.rindex("/") + 1]


def _points(lines: Iterable[Line], tag: str) -> Iterable[Point]:
    """Yield the evaluations of the metric's set, also those without a finite value."""
    for line in lines:
        if any(key.startswith(_prefix(tag)) for key in line):
            yield line["step"], measures.finite(line.get(tag))


def _sign(config: Config, tag: str) -> int:
    """Return 1 if lower values of the metric are better, else -1."""
    found = {each.key: each for each in measures.in_use("text", config.evaluation.measures)}
    return 1 if found[tag.rpartition("/")[2]].better == "lower" else -1
