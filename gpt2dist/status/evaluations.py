"""Read the results in a run directory: eval/step-N.json of training, eval/NAME/step-N.json of `evaluate`."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from gpt2dist.checkpoint.naming import best_step, checkpoint_name
from gpt2dist.evaluation import measures
from gpt2dist.evaluation.measure import MeasureInfo
from gpt2dist.run.directory import RunDirectory
from gpt2dist.status.run_files import read_object

_STEP = re.compile(r"step-(\d+)\.json")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Result of one evaluation.

    Attributes:
        name: Name of the validation set, or the value of `evaluate --name`.
        step: Optimizer steps done.
        values: Measures by key; None if not finite. For a text, the measures of every validation are there even
            if the file lacks them.
        measures: How the measures are written: ours, and others as the file describes them.
    """

    name: str
    step: int
    values: dict[str, float | None]
    measures: tuple[MeasureInfo, ...] = dataclasses.field(default=(), compare=False)

    def described(self) -> str:
        """Return the values in one line, such as "loss 3.9512, 1.8300 bits per byte"; empty if none is finite."""
        known = ((each, self.values[each.key]) for each in self.measures if "status" in each.places)
        return ", ".join(each.in_line(value) for each, value in known if value is not None)

    def as_json(self) -> dict[str, Any]:
        """Return what `gpt2dist status --json` has of this evaluation."""
        return {"name": self.name, "step": self.step, **self.values}


@dataclasses.dataclass(frozen=True)
class Best:
    """The best checkpoint by `checkpoint.keep_best`.

    Attributes:
        step: Optimizer steps done.
        metric: The metric, such as "eval/val/loss"; empty if unknown.
        value: The metric at that step; None if unknown.
    """

    step: int
    metric: str
    value: float | None

    def described(self) -> str:
        """Return a text such as "400, eval/val/loss 3.9512"."""
        value = "" if self.value is None else f" {self.value:.4f}"
        return f"{self.step:,}, {self.metric}{value}" if self.metric else f"{self.step:,}"


def read_best(run: Path, metric: Any) -> Best | None:
    """Return the best checkpoint of a run; None if none is named.

    Args:
        run: The run directory.
        metric: `checkpoint.keep_best` as config.yaml has it.
    """
    step = best_step(RunDirectory(run).checkpoints)
    if step is None:
        return None
    if not isinstance(metric, str):
        return Best(step, "", None)
    _, _, rest = metric.partition("/")
    name, _, key = rest.rpartition("/")
    result = read_object(RunDirectory(run).evaluations / f"{checkpoint_name(step)}.json").get(name)
    return Best(step, metric, measures.finite(result.get(key)) if isinstance(result, dict) else None)


def last_evaluations(run: Path, up_to: int | None) -> list[Evaluation]:
    """Return the newest result of each name, newest first.

    Args:
        run: The run directory.
        up_to: Current step of the run. Later results are of an abandoned continuation, and are ignored. None for
            all results.
    """
    newest: dict[str, Evaluation] = {}
    for path in _newest_files(RunDirectory(run).evaluations, up_to):
        for result in _results(path):
            if result.name not in newest or newest[result.name].step < result.step:
                newest[result.name] = result
    return sorted(newest.values(), key=lambda result: -result.step)


def all_evaluations(run: Path) -> list[Evaluation]:
    """Return all results, sorted by name and step."""
    found = {
        (result.name, result.step): result
        for directory in _directories(RunDirectory(run).evaluations)
        for path in _steps(directory).values()
        for result in _results(path)
    }
    return [found[key] for key in sorted(found)]


def _newest_files(home: Path, up_to: int | None) -> list[Path]:
    files = []
    for directory in _directories(home):
        found = {step: path for step, path in _steps(directory).items() if up_to is None or step <= up_to}
        files += [found[max(found)]] if found else []
    return files


def _directories(home: Path) -> list[Path]:
    try:
        with os.scandir(home) as entries:  # without a stat of each file
            return [home, *sorted(home / entry.name for entry in entries if entry.is_dir())]
    except OSError:
        return []


def _steps(directory: Path) -> dict[int, Path]:
    try:
        return {int(match[1]): path for path in directory.iterdir() if (match := _STEP.fullmatch(path.name))}
    except OSError:
        return {}


def _results(path: Path) -> list[Evaluation]:
    """Read the results in a file. Training writes several by name, `gpt2dist evaluate` a single one."""
    content = read_object(path)
    step = int(_STEP.fullmatch(path.name)[1])  # type: ignore[index]
    by_name = {path.parent.name: content} if "step" in content else content
    return [_evaluation(name, step, each) for name, each in by_name.items() if isinstance(each, dict)]


def _evaluation(name: str, step: int, result: dict[str, Any]) -> Evaluation:
    found = measures.of_result(result)
    of_text = measures.TEXT if measures.is_of_text(result) else ()
    always = [each.key for each in of_text if "training" in each.places]
    values = {key: measures.finite(result.get(key)) for key in (*always, *(each.key for each in found))}
    return Evaluation(name, step, values, tuple(found))
