"""`gpt2dist evaluate --tasks`: tasks of lm-evaluation-harness."""

import argparse
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist.api.ranks import joined_ranks
from gpt2dist.commands import recording
from gpt2dist.errors import UserError

if TYPE_CHECKING:
    from gpt2dist.distributed.world import World
    from gpt2dist.evaluation.tasks import Tasks

TIMEOUT = timedelta(hours=6)
"""Time that other ranks wait for rank 0, which may download data and compute metrics."""
OF_TEXTS = {
    **{"split": None, "detokenizer": "none", "sequence_length": None, "stride": None, "prefix": "none"},
    **{"per_document": False, "document_boundaries": "pack", "measure": []},
}
"""Options that do not apply to tasks → their defaults."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("tasks of lm-evaluation-harness (pip install 'gpt2dist[lm-eval]')")
    group.add_argument(
        "--tasks",
        metavar="NAMES",
        help="instead of a text: tasks and groups, such as lambada_openai,hellaswag, or YAML files of tasks",
    )
    group.add_argument(
        "--include-path", type=Path, metavar="DIR", help="directory with YAML files of further tasks"
    )
    group.add_argument(
        "--num-fewshot",
        type=int,
        metavar="N",
        help="examples before each question; default: the task's own number",
    )
    group.add_argument(
        "--limit", type=int, metavar="N", help="only the first N documents of each task, for a trial"
    )


def check(args: argparse.Namespace) -> None:
    """Check the options before anything is loaded.

    Raises:
        UserError: Options do not fit together, or the harness is not installed.
    """
    from gpt2dist.evaluation.tasks import require_harness

    given = [name for name in ("include_path", "num_fewshot", "limit") if getattr(args, name) is not None]
    if args.tasks is None:
        if given:
            raise UserError(f"{_option(given[0])}: applies only to --tasks; omit it")
        return
    if not names(args):
        raise UserError("--tasks: names no task; give names such as lambada_openai,hellaswag")
    for name, default in OF_TEXTS.items():
        if getattr(args, name) != default:
            raise UserError(
                f"{_option(name)}: does not apply to --tasks, which describe what they score; omit it"
            )
    if args.include_path and not args.include_path.is_dir():
        raise UserError(
            f"--include-path: {args.include_path}: no such directory; give one with YAML files of tasks"
        )
    if args.num_fewshot is not None and args.num_fewshot < 0:
        raise UserError("--num-fewshot must be 0 or more")
    if args.limit is not None and args.limit < 1:
        raise UserError("--limit must be at least 1")
    require_harness()


def names(args: argparse.Namespace) -> list[str]:
    """Return the names of the tasks, each once."""
    return list(dict.fromkeys(filter(None, (name.strip() for name in args.tasks.split(",")))))


def run(args: argparse.Namespace) -> None:
    """Evaluate one model, or the checkpoints of a run, on the tasks."""
    from gpt2dist.evaluation.tasks import Tasks
    from gpt2dist.model.find_model import locate

    if not args.all_checkpoints:
        locate(args.model)  # before the tasks' data is loaded
    with joined_ranks(TIMEOUT) as world:
        tasks = Tasks(
            *(names(args), args.include_path, args.num_fewshot, args.limit, world),
            *(args.batch_size, args.zero_stage, args.dtype),
        )
        evaluations = [_TaskEvaluation(name, tasks) for name in tasks.names]
        recording.evaluate(args, evaluations, world, _table, several=True)


class _TaskEvaluation:
    """A task; see `recording.ModelEvaluation`."""

    def __init__(self, name: str, tasks: "Tasks"):
        self.name = name
        self._tasks = tasks

    def conditions(self, model: Path) -> dict[str, Any]:
        return self._tasks.conditions(self.name, model)

    def score(self, model: Path, label: str, world: "World", require: recording.Require) -> dict[str, Any]:
        from gpt2dist.monitoring.progress import Progress

        with Progress(label, None, "token", scale=True, enabled=world.is_main) as bar:
            return self._tasks.evaluate(self.name, model, bar.advance, lambda data: require({"data": data}))


def _table(found: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    return {name: _row(result) for name, result in found.items()}


def _row(result: Mapping[str, Any]) -> str:
    """Return "acc 0.2890 ± 0.0045, acc_norm 0.3114 ± 0.0046 (10,042 documents, 0-shot)"."""
    from gpt2dist.evaluation.measures import of_result

    shown = []
    for each in of_result(result, "card"):
        error = result.get(f"{each.key}_stderr")
        shown.append(f"{each.key} {result[each.key]:.4f}" + (f" ± {error:.4f}" if error is not None else ""))
    shots = result["num_fewshot"]
    how = f"{result['examples']:,} documents, " + (f"{shots}-shot" if isinstance(shots, int) else "few-shot")
    return f"{', '.join(shown) or 'no metric'} ({how})"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
