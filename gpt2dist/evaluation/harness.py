"""Evaluate a model on tasks of lm-evaluation-harness, with our own model and on all ranks.

Rank 0 alone runs the harness: it loads the tasks, builds their requests and computes their metrics. All ranks
answer its requests (`harness_model.py`). A task may therefore depend on chance, and its data is downloaded once.

Importing this module imports lm-eval, which the extra `lm-eval` installs.
"""

import functools
import hashlib
import importlib.metadata
import json
import logging
import math
import random
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import numpy as np
import torch
from lm_eval.api.group import Group
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from gpt2dist.errors import UserError
from gpt2dist.evaluation import measures
from gpt2dist.evaluation.harness_model import HarnessModel
from gpt2dist.evaluation.measure import MeasureInfo, Place
from gpt2dist.evaluation.measures import DESCRIPTIONS

PLACES: tuple[Place, ...] = ("curve", "log", "status", "report", "card")
RANDOM_SEED, OTHER_SEED = 0, 1234
"""The harness's default seeds: of Python's generator, and of numpy's, torch's and the few-shot examples'."""
_HUB_ERRORS = {
    *("ConnectionError", "OfflineModeIsEnabled", "DatasetNotFoundError", "LocalEntryNotFoundError"),
    *("RepositoryNotFoundError", "HfHubHTTPError", "ConnectError"),
}


@dataclass(frozen=True)
class TaskSettings:
    """Settings of an evaluation on tasks.

    Attributes:
        num_fewshot: Number of examples before each question; None for the task's own.
        limit: Number of documents of each task, from its first; None for all. Only for trials.
    """

    num_fewshot: int | None = None
    limit: int | None = None


class HarnessTask:
    """A task, or a group of tasks whose metrics are combined.

    Args:
        name: Its name.
        loaded: The harness's object.
        settings: The settings.
    """

    def __init__(self, name: str, loaded: Task | Group, settings: TaskSettings):
        self.name = name
        self._tasks: dict[str, Task] = TaskManager(include_defaults=False).load([loaded])["tasks"]
        self._groups = {name: loaded} if isinstance(loaded, Group) else {}
        self._settings = settings
        for task in self._tasks.values():
            _set_shots(task, settings.num_fewshot)

    def conditions(self) -> dict[str, Any]:
        """Return the settings that two results must share to be points of one curve, as far as they are known
        before the task's requests are built.
        """
        shots = sorted({task.get_config("num_fewshot") for task in self._tasks.values()})
        versions = sorted({str(task.VERSION) for task in self._tasks.values()})
        return {
            "task": self.name,
            "task_version": ", ".join(versions),
            "num_fewshot": shots[0] if len(shots) == 1 else shots,
            "limit": self._settings.limit,
        }

    def run(self, model: HarnessModel, on_data: Callable[[str], None]) -> dict[str, Any]:
        """Evaluate the model. Call it on rank 0.

        Args:
            model: The model.
            on_data: Called with a fingerprint of all requests before the first one is computed; may raise.

        Returns:
            The metrics with their descriptions, the number of documents, and the settings.
        """
        _seed()
        data = ""

        def before() -> None:
            nonlocal data
            data = _fingerprint(self._tasks.values())
            on_data(data)

        model.before = before
        done = evaluate(
            model,
            {"tasks": self._tasks, "groups": self._groups},
            limit=self._settings.limit,
            bootstrap_iters=0,  # it would fork a pool of processes; `_standard_errors` has those of means
            log_samples=True,
        )
        assert done is not None
        found = {name: self._metrics(done, name) for name in (self.name, *self._tasks)}
        counts = [done["n-samples"][name]["effective"] for name in self._tasks]
        return {
            **found[self.name],
            **_described(found[self.name], done["higher_is_better"].get(self.name, {})),
            "examples": sum(counts),
            **({"subtasks": {name: found[name] for name in self._tasks}} if self._groups else {}),
            **self.conditions(),
            "data": data,
            "lm_eval": importlib.metadata.version("lm_eval"),
        }

    def _metrics(self, done: Mapping[str, Any], name: str) -> dict[str, float]:
        """Return the metrics of a task or a group, each with its standard error if it is a mean."""
        found = {}
        for label, value in done["results"].get(name, {}).items():
            metric, comma, filter_name = label.partition(",")
            if not comma or not measures.is_number(value):
                continue
            key = _key(metric, filter_name)
            found[key] = float(value)
            if name in self._tasks and self._tasks[name].aggregation().get(metric) is mean:
                samples = done["samples"][name]
                values = [each[metric] for each in samples if each["filter"] == filter_name and metric in each]
                if len(values) > 1:
                    found[f"{key}_stderr"] = statistics.stdev(map(float, values)) / math.sqrt(len(values))
        return found


def load_tasks(names: Sequence[str], include_path: Path | None, settings: TaskSettings) -> list[HarnessTask]:
    """Load tasks with their data. Call it on rank 0.

    Args:
        names: Names of tasks, groups and tags, or paths of YAML files.
        include_path: A directory with further tasks in YAML files, which replace the harness's of the same name.
        settings: The settings.

    Returns:
        The tasks and groups. A tag stands for all of its tasks.

    Raises:
        UserError: A task is unknown or cannot be loaded, such as without its data.
    """
    _make_quiet()
    manager = _manager(names, include_path)
    found: dict[str, HarnessTask] = {}
    for name in names:
        for loaded in _load(manager, name):
            own = loaded.name if isinstance(loaded, Group) else loaded.task_name
            found[own] = HarnessTask(own, loaded, settings)
    return list(found.values())


def _manager(names: Sequence[str], include_path: Path | None) -> TaskManager:
    """Return a manager that knows all tasks. The harness's own are thousands of files, read only if needed."""
    local = TaskManager(include_path=include_path and str(include_path), include_defaults=False)
    unknown = [name for name in names if name not in local.all_tasks and not _is_file(name)]
    if not unknown:
        return local
    manager = TaskManager(include_path=include_path and str(include_path))
    for name in unknown:
        if name not in manager.all_tasks:
            raise UserError(f"--tasks: {_unknown(name, manager.all_tasks, include_path)}")
    return manager


def _unknown(name: str, known: Iterable[str], include_path: Path | None) -> str:
    import difflib

    if name.endswith((".yaml", ".yml")):
        return f"{name}: no such file"
    close = difflib.get_close_matches(name, known, 3)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    own = f"a task in {include_path}" if include_path else "a directory of your own tasks with --include-path"
    return f"unknown task {name!r}; {hint}`lm-eval ls tasks` lists all; or name a YAML file, or {own}"


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()


def _load(manager: TaskManager, name: str) -> list[Task | Group]:
    """Load what a name stands for."""
    try:
        loaded = manager.load([name])
        tasks, groups = loaded["tasks"], loaded["groups"]
        found = [groups[name]] if name in groups else list(tasks.values())
        if _is_file(name) and groups:
            found = [next(iter(groups.values()))]  # the first one holds the others
    except Exception as error:  # tasks may run any code, and data sets fail in any way
        raise UserError(f"--tasks: {name}: {_reason(error)}") from error
    for task in tasks.values():
        if getattr(task, "UNSAFE_CODE", False):
            raise UserError(f"--tasks: {name}: runs code that the model writes, which gpt2dist does not; omit it")
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"--tasks: {name}: needs images or sound, and a GPT-2 reads text; omit it")
    if not found:
        raise UserError(f"--tasks: {name}: has no tasks; give another name")
    return found


def _reason(error: BaseException) -> str:
    """Return why a task cannot be loaded, and a way out."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    kinds = {kind.__name__ for each in chain for kind in type(each).__mro__}
    said = next(iter(str(error).strip().splitlines()), "") or "no message"
    what = f"cannot be loaded ({type(error).__name__}: {said[:300]})"
    if kinds & _HUB_ERRORS:
        return (
            f"its data is not on this machine, and the hub does not give it ({said[:300]}); start it once where "
            "the hub can be reached and share the cache (HF_HOME), or describe the task with local files in a "
            "YAML file: --tasks FILE.yaml"
        )
    if isinstance(error, FileNotFoundError):
        return f"{what}; data_files in YAML are relative to the current directory"
    return f"{what}; correct the task, or omit it"


def _set_shots(task: Task, number: int | None) -> None:
    """Set the number of examples as the harness does: a task that says 0 keeps it."""
    own = task.get_config("num_fewshot")
    if number is not None and own != 0:
        task.set_config(key="num_fewshot", value=number)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)


def _seed() -> None:
    random.seed(RANDOM_SEED)
    np.random.seed(OTHER_SEED)
    torch.manual_seed(OTHER_SEED)


def _fingerprint(tasks: Iterable[Task]) -> str:
    """Return a SHA-256 over all that a model is asked."""
    digest = hashlib.sha256()
    for task in tasks:
        for instance in task.instances:
            digest.update(json.dumps([instance.request_type, instance.args], default=str).encode() + b"\n")
    return digest.hexdigest()


def _key(metric: str, filter_name: str) -> str:
    """Return the key of a metric in a result, such as "acc" or "exact_match_strict_match"."""
    name = metric if filter_name == "none" else f"{metric}_{filter_name}"
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _described(metrics: Mapping[str, float], higher_is_better: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the metrics that are not in our table, for readers of the result."""
    ours = {each.key for each in measures.CHOICES}
    described = {}
    for key in metrics:
        if key in ours:
            continue
        lower = next((not up for name, up in higher_is_better.items() if _key(name, "none") == key), False)
        taken = key in {each.key for each in measures.OURS}  # a chart in a report has one measure of a key
        places = (
            () if key.endswith("_stderr") else tuple(each for each in PLACES if each != "report" or not taken)
        )
        info = MeasureInfo(key=key, title=key, better="lower" if lower else "higher", places=places)
        described[key] = measures.description(info)
    return {DESCRIPTIONS: described} if described else {}


@functools.cache
def _make_quiet() -> None:
    """Silence the harness's log and bars: checks of ours report mistakes, and the model shows the progress."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    lm_eval.api.task.tqdm = functools.partial(tqdm, disable=True)
