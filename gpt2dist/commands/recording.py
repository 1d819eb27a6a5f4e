"""Evaluate a model and print the result, or record results in a run: --run, --all-checkpoints and --watch."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gpt2dist.commands import results
from gpt2dist.distributed import launch_environment, peer_monitor
from gpt2dist.errors import RunError, UserError
from gpt2dist.run.directory import RunDirectory
from gpt2dist.terminal import say, shown_on

if TYPE_CHECKING:
    from gpt2dist.distributed.world import World
    from gpt2dist.evaluation.results import EvaluationResults

Require = Callable[[dict[str, Any]], None]
"""Function that raises a UserError if results under these conditions do not belong to the recorded ones."""


class ModelEvaluation(Protocol):
    """What a verb measures of a model.

    Attributes:
        name: Default name of its results in a run.
    """

    @property
    def name(self) -> str:
        """Default name of its results in a run."""

    def conditions(self, model: Path) -> dict[str, Any]:
        """Return the settings that two results must share to be points of one curve."""

    def score(self, model: Path, label: str, world: "World", require: Require) -> dict[str, Any]:
        """Score a model, with a progress bar of this label. Collective.

        `require` checks, on rank 0 and before the work, conditions that become known only now.
        """


Table = Callable[[Mapping[str, dict[str, Any]]], dict[str, str]]
"""Function from the result of each evaluation to the rows that are printed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    run = parser.add_argument_group("recording results in a run: RUN/eval/NAME and TensorBoard")
    run.add_argument(
        "--run", type=Path, dest="of_run", metavar="RUN", help="run directory to record the result in"
    )
    run.add_argument("--step", type=int, metavar="N", help="step of the result; default: the checkpoint's")
    run.add_argument(
        "--name", help="name of the evaluation; default: that of the dataset, of the first file, or of the task"
    )
    run.add_argument(
        "--all-checkpoints", action="store_true", help="score each checkpoint of the run MODEL without a result"
    )
    run.add_argument(
        "--watch", action="store_true", help="also score new checkpoints, until the run has done all its steps"
    )


def check(args: argparse.Namespace, name: str | None) -> None:
    """Check the options before anything is loaded.

    Args:
        args: The options.
        name: Default name of the evaluation; None if it is not known yet.

    Raises:
        UserError: Options do not fit together, or the run or the name cannot be used.
    """
    if args.watch and not args.all_checkpoints:
        raise UserError("--watch: needs --all-checkpoints; add it")
    if args.all_checkpoints:
        if args.of_run or args.step is not None or args.output or args.json:
            raise UserError(
                "--all-checkpoints: writes a result per checkpoint to RUN/eval; omit --run, --step, "
                "--output and --json"
            )
        if not Path(args.model).is_dir() or (Path(args.model) / "config.json").exists():
            raise UserError(
                f"--all-checkpoints: {args.model} is not a run directory; give one that `gpt2dist train` created"
            )
        if not args.watch and not RunDirectory(Path(args.model)).checkpoints.is_dir():
            raise UserError(
                f"--all-checkpoints: {args.model} has no checkpoints yet; add --watch to wait for them"
            )
    if args.of_run and not args.of_run.is_dir():
        raise UserError(f"--run: {args.of_run}: no such directory; give one that `gpt2dist train` created")
    if (args.step is not None or args.name) and not records(args):
        raise UserError("--step and --name: apply only to results recorded in a run; add --run RUN")
    if args.step is not None and args.step < 0:
        raise UserError("--step must be 0 or more")
    if records(args) and (args.name or name):
        record(args, name or "")  # checks the name before the texts are read


def records(args: argparse.Namespace) -> bool:
    """Return whether the results belong to a run."""
    return bool(args.of_run or args.all_checkpoints)


def record(args: argparse.Namespace, name: str) -> "EvaluationResults":
    """Return the results of an evaluation in the run, under --name or by default under `name`."""
    from gpt2dist.evaluation.results import EvaluationResults

    return EvaluationResults(args.of_run or Path(args.model), args.name or name)


def evaluate(
    args: argparse.Namespace,
    evaluations: Sequence[ModelEvaluation],
    world: "World",
    table: Table,
    several: bool = False,
) -> None:
    """Evaluate the model, or with --all-checkpoints the checkpoints of a run. Collective.

    Args:
        args: The options, with those of `results`.
        evaluations: What to measure.
        world: This rank.
        table: The rows to print.
        several: Whether the JSON is an object of results by name, or the result itself.
    """
    if args.name and len(evaluations) > 1:
        raise UserError(f"--name {args.name}: names one evaluation, and there are {len(evaluations)}; omit it")
    if args.all_checkpoints:
        _score_all(args, evaluations, world)
    else:
        _score_one(args, evaluations, world, table, several)


def _score_one(
    args: argparse.Namespace,
    evaluations: Sequence[ModelEvaluation],
    world: "World",
    table: Table,
    several: bool,
) -> None:
    from gpt2dist.evaluation.model_forward import locate_together

    model = locate_together(args.model, world)
    kept = [record(args, each.name) for each in evaluations] if args.of_run else []
    step = _step(model, args) if kept else 0
    for each, one in zip(evaluations, kept, strict=False):
        _require_comparable(one, each.conditions(model), world)
    found = {}
    for number, each in enumerate(evaluations):
        into = kept[number] if kept else None
        found[each.name] = result = each.score(model, _label(args, each, evaluations), world, _require(into))
        if into and world.is_main:
            into.add(step, model, result)
            _mirror(into)
    if world.is_main:
        results.print_result(found if several else found[evaluations[0].name], table(found), args)


def _score_all(args: argparse.Namespace, evaluations: Sequence[ModelEvaluation], world: "World") -> None:
    """Score all checkpoints of a run that have no result; with --watch, also future ones."""
    from gpt2dist.evaluation.measures import in_line
    from gpt2dist.evaluation.pins import missing, saved_count
    from gpt2dist.evaluation.results import JointResults
    from gpt2dist.evaluation.watch import checkpoints_to_score
    from gpt2dist.monitoring.progress import info, warn

    kept = [record(args, each.name) for each in evaluations]
    joint = JointResults(kept)
    if args.watch:
        _end_on_signals(joint)
    since = world.on_main(lambda: saved_count(joint.run))

    def wait(state: str) -> None:
        info(f"waiting for {joint.run} ({state})")

    for step, model in checkpoints_to_score(joint, world, args.watch, wait, on_note=warn):
        to_do = [pair for pair in zip(evaluations, kept, strict=True) if _lacks(pair[1], step, model, world)]
        for each, one in to_do:
            _require_comparable(one, each.conditions(model), world)
        for each, one in to_do:
            label = f"{_label(args, each, evaluations)} step {step}"
            result = each.score(model, label, world, _require(one))
            if world.is_main:
                one.add(step, model, result)
                _mirror(one)
                of = f"{each.name}: " if len(evaluations) > 1 else ""
                say(f"step {step}: {of}{in_line(result, 'log')}", sys.stdout)
    for one in kept if world.is_main else ():
        say(f"{len(one.results())} results in {one.directory}")
    if lost := world.on_main(lambda: missing(joint, since)):
        raise RunError(
            f"{len(lost)} checkpoints were deleted by the run before they could be scored: steps "
            f"{', '.join(map(str, lost))}; raise checkpoint.keep_last or checkpoint.every_steps of the run"
        )


def _label(args: argparse.Namespace, each: ModelEvaluation, evaluations: Sequence[ModelEvaluation]) -> str:
    return each.name if len(evaluations) > 1 else args.verb


def _lacks(one: "EvaluationResults", step: int, model: Path, world: "World") -> bool:
    """Return whether the weights of a checkpoint have no result yet. Collective."""
    from gpt2dist.model.find_model import fingerprint

    return world.on_main(lambda: one.results().get(step, {}).get("model") != fingerprint(model))


def _require_comparable(one: "EvaluationResults", conditions: dict[str, Any], world: "World") -> None:
    """Check, before scoring, that the result belongs to the same curve as the recorded ones."""
    world.on_main(lambda: one.require_comparable(conditions))


def _require(one: "EvaluationResults | None") -> Require:
    return one.require_comparable if one else lambda conditions: None


def _step(model: Path, args: argparse.Namespace) -> int:
    """Return the step at which to record a result."""
    from gpt2dist.checkpoint import manifest, state

    if args.step is not None:
        return args.step
    if not (model / manifest.NAME).is_file():
        raise UserError(f"--run: {model} is not a checkpoint, so its step is unknown; add --step N")
    return state.TrainerState.read(model).step


def _mirror(record: "EvaluationResults") -> None:
    """Write the results to TensorBoard, as a separate run below the training run."""
    from gpt2dist.monitoring.tensorboard import TensorBoard
    from gpt2dist.monitoring.trackers import send
    from gpt2dist.run.metrics_file import NO_HISTORY

    board = TensorBoard(RunDirectory(record.run).tensorboard / record.name)
    board.start({}, record.run, NO_HISTORY)
    for line in record.lines():
        send(board, line)
    board.close(failed=False)


def _end_on_signals(record: Any) -> None:
    """Exit with code 0 on SIGTERM and SIGUSR1. All results so far are already on disk."""
    from gpt2dist.evaluation.pins import drop_needless

    def end(number: int, frame: Any) -> None:
        if launch_environment.rank() == 0:
            note = f"stopped; the results are in {record.directory}\n"
            if left := drop_needless(record):
                note += f"{left}\n"
            # The signal may have interrupted a print, which cannot be called again here.
            os.write(2, shown_on(sys.stderr, note).encode())
        peer_monitor.goodbye()
        os._exit(0)  # a normal exit could block, since other ranks may wait in a collective

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, end)
