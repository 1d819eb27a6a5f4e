"""Check the work to submit by the checks of its verb, and find the paths that it uses."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2dist.errors import UserError
from gpt2dist.run.directory import RunDirectory

if TYPE_CHECKING:  # importing pydantic would slow down --help
    from gpt2dist.submission.job import Work


def work_of(args: argparse.Namespace) -> "Work":
    """Return the work that a `submit` command line describes.

    Raises:
        UserError: Arguments contradict each other, or the verb to submit would refuse them.
    """
    if args.job == "train":
        return _training(args)
    if args.overrides:
        raise UserError(
            f"{args.overrides[0]}: --job {args.job} takes no configuration; write the arguments of "
            f"`gpt2dist {args.job}` after `--`"
        )
    if not args.words:
        raise UserError(
            f"--job {args.job}: arguments missing; write those of `gpt2dist {args.job}` after `--`, as in: "
            f"gpt2dist submit --job {args.job} … -- …"
        )
    from gpt2dist.cli import build_parser

    verb_args = build_parser(args.job).parse_args([args.job, *args.words])
    return _evaluation(verb_args, args) if args.job == "evaluate" else _preprocessing(verb_args, args)


def _training(args: argparse.Namespace) -> "Work":
    """Check a training run at the requested world size, and return it as work."""
    from gpt2dist.preflight import resolve
    from gpt2dist.preflight.resources import device_memory_bytes, require_resources
    from gpt2dist.submission.job import Work

    if args.words:
        raise UserError(
            f"-- {args.words[0]}: only --job evaluate and preprocess take arguments after `--`; omit them"
        )
    if not args.overrides:
        raise UserError("no CONFIG; name the YAML file of the run, or another --job")
    file, *overrides = args.overrides
    device_memory = device_memory_bytes(args.device_memory)
    ranks = (args.nodes or 1) * args.gpus_per_node
    config, plan = resolve(Path(file), overrides, ranks)
    require_resources(file, config, plan, device_memory)
    run = config.output_dir.absolute()
    datasets = [*(each.dataset for each in plan.datasets), *(each.dataset for each in plan.validation)]
    # With this, the job refuses to start with another number of ranks.
    run_section = config.run.model_copy(update={"world_size": ranks})
    return Work(
        verb="train",
        name=_one_line(config.run.name),
        arguments=(),
        submissions_directory=RunDirectory(run).submissions,
        paths=(run, *(dataset.directory.absolute() for dataset in datasets)),
        config=config.model_copy(update={"run": run_section}),
        run=run,
    )


def _evaluation(verb_args: argparse.Namespace, args: argparse.Namespace) -> "Work":
    """Check an evaluation, and return it as work.

    Args:
        verb_args: The command line of `evaluate`.
        args: The command line of `submit`.
    """
    from gpt2dist.commands import evaluate
    from gpt2dist.submission.job import Work

    evaluate.check(verb_args)
    run = _run_of(verb_args)
    home = run or Path.cwd()
    files = [
        verb_args.model,
        verb_args.data,
        *(verb_args.text or ()),
        verb_args.of_run,
        verb_args.output and verb_args.output.parent,
    ]
    return Work(
        verb="evaluate",
        name=_one_line(f"evaluate-{run.name if run else Path(verb_args.model).name}"),
        arguments=tuple(args.words),
        submissions_directory=RunDirectory(home).submissions,
        paths=tuple(_existing(str(file) for file in files if file)),
        endless=verb_args.watch,
    )


def _run_of(verb_args: argparse.Namespace) -> Path | None:
    """Return the run that an evaluation belongs to; None if the model is not part of a run."""
    if verb_args.of_run:
        return Path(verb_args.of_run).absolute()
    model = Path(verb_args.model).absolute()
    if verb_args.all_checkpoints or RunDirectory(model).checkpoints.is_dir():
        return model
    run = model.parent.parent
    return run if model.is_dir() and RunDirectory(run).checkpoints == model.parent else None


def _preprocessing(verb_args: argparse.Namespace, args: argparse.Namespace) -> "Work":
    """Check preprocessing, and return it as work; the arguments are those of `_evaluation`."""
    from gpt2dist.commands import preprocess
    from gpt2dist.preprocessing import check
    from gpt2dist.submission.job import Work

    given = [name for name in ("task_index", "task_count", "scheduler") if getattr(verb_args, name) is not None]
    given += ["finish"] * verb_args.finish
    if given:
        raise UserError(f"--{given[0].replace('_', '-')}: submit sets it for each job; omit it")
    if "-" in verb_args.inputs:
        raise UserError("-: a job has no standard input; name the files instead")
    job = preprocess.job_of(verb_args)
    tasks = check(job)
    if args.tasks is not None and args.tasks > tasks:
        raise UserError(
            f"--tasks {args.tasks}: this corpus can be divided into at most {tasks}; set it to that or less"
        )
    return Work(
        verb="preprocess",
        name=_one_line(f"preprocess-{job.output.name}"),
        arguments=tuple(args.words),
        submissions_directory=job.submissions.absolute(),
        paths=(*_existing([*verb_args.inputs, verb_args.tokenizer]), job.output.absolute().parent),
    )


def _one_line(name: str) -> str:
    """Collapse whitespace, so that the name fits into a one-line comment of a script."""
    return " ".join(name.split())


def _existing(names: Iterable[str]) -> Iterable[Path]:
    """Yield the absolute paths of those names that exist on this machine; for a glob, the directory above it."""
    for name in names:
        path = Path(name).absolute()
        while not path.exists() and any(letter in str(path) for letter in "*?["):
            path = path.parent
        if path.exists() and "://" not in name:
            yield path
