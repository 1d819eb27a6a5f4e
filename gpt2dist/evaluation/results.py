"""Evaluation results of a run: RUN/eval/NAME/step-00001000.json for each scored checkpoint."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gpt2dist import atomic_io, json_files
from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.naming import checkpoint_name
from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.errors import UserError
from gpt2dist.evaluation import measures
from gpt2dist.run.directory import RunDirectory

BEFORE_DTYPES = {"dtype": "fp32"}
"""Settings of results that do not record them, since they had only this value."""


@dataclass(frozen=True)
class ResultFile:
    """The keys of a result file that are read back, besides its measures."""

    step: int
    time: float
    model: str
    consumed_tokens: int = 0


class Scored(Protocol):
    """Which checkpoints of a run have results."""

    @property
    def run(self) -> Path:
        """The run directory."""

    @property
    def directory(self) -> Path:
        """The directory of the results."""

    def results(self) -> dict[int, dict[str, Any]]:
        """Return the results by step, in ascending order; each has the fingerprint of its `model`."""


class EvaluationResults:
    """Results of one evaluation of a run.

    Args:
        run: The run directory.
        name: Name of the evaluation, unique in the run.

    Raises:
        UserError: The name is not valid as a directory name.
    """

    def __init__(self, run: Path, name: str):
        if not name or Path(name).name != name or name.startswith("."):
            raise UserError(
                f"--name {name!r} is not a valid name of a directory; give a plain word such as wikitext"
            )
        self.run = run
        self.name = name
        self.directory = RunDirectory(run).evaluations / name

    def results(self) -> dict[int, dict[str, Any]]:
        """Return the results by step, in ascending order.

        Raises:
            UserError: A file is not a result of `gpt2dist evaluate`.
        """
        found = {}
        for path in sorted(self.directory.glob("step-*.json")):
            try:
                result = json_files.load(path)
                step = json_files.build(ResultFile, result).step
                _check_measures(result)
                found[step] = result
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{path}: not a result of `gpt2dist evaluate` ({json_files.reason(error)}); remove it"
                ) from None
        return dict(sorted(found.items()))

    def require_comparable(self, conditions: dict[str, Any]) -> None:
        """Check that an evaluation's results would be points of the same curve as the existing ones.

        Args:
            conditions: The settings of the evaluation, from `evaluate.conditions`.

        Raises:
            UserError: An existing result has other settings; the message names the first that differs.
        """
        for there in self.results().values():
            for key, value in conditions.items():
                known = there.get(key, BEFORE_DTYPES.get(key))
                if known != value:
                    raise UserError(
                        f"{self.directory}: has results with {key} {known!r}, this evaluation has "
                        f"{value!r}; give it another --name"
                    )

    def add(self, step: int, model: Path, result: dict[str, Any]) -> None:
        """Write the result of a model at a step, and replace an existing one of that step.

        The written result also has `step`, `time` and, if the model is a checkpoint, `consumed_tokens`.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        known: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        if (model / manifest.NAME).is_file():
            known["consumed_tokens"] = TrainerState.read(model).consumed_tokens
        path = self.directory / f"{checkpoint_name(step)}.json"
        atomic_io.write_json(path, known | atomic_io.finite(result))

    def lines(self) -> list[dict[str, Any]]:
        """Return the results as lines of metrics.jsonl, for TensorBoard."""
        return [self.line(result) for result in self.results().values()]

    def line(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return a result as a line of metrics.jsonl."""
        known = {"progress/tokens": result["consumed_tokens"]} if "consumed_tokens" in result else {}
        curves = measures.of_result(result, "curve")
        return {
            "step": result["step"],
            "time": result["time"],
            **known,
            **{f"eval/{self.name}/{each.key}": result[each.key] for each in curves},
        }


class JointResults:
    """Results of several evaluations of a run, where a checkpoint has a result if it has one of each.

    Args:
        records: The results of each evaluation, at least one.
    """

    def __init__(self, records: Sequence[EvaluationResults]):
        self._records = records
        self.run = records[0].run
        self.directory = records[0].directory

    def results(self) -> dict[int, dict[str, Any]]:
        """Return the first evaluation's results of the checkpoints that have the results of all."""
        first, *others = (each.results() for each in self._records)
        return {
            step: result
            for step, result in first.items()
            if all(step in each and each[step]["model"] == result["model"] for each in others)
        }


def _check_measures(result: dict[str, Any]) -> None:
    """Check that the measures of a result file are numbers, or None if they were not finite.

    Raises:
        ValueError: One is missing or of another type; the message names it.
    """
    for measure in measures.TEXT if measures.is_of_text(result) else ():
        is_needed = "curve" in measure.places and measure.per not in measures.OPTIONAL_COUNTS
        if is_needed and measure.key not in result:
            raise ValueError(f"{measure.key} is missing")
    for key in (each.key for each in measures.of_result(result)):
        if result[key] is not None and not measures.is_number(result[key]):
            raise ValueError(f"{key} is {result[key]!r:.60}, not a number")
