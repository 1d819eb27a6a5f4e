"""Work that can be submitted: a verb's arguments, checked by that verb, and the paths that it uses."""

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
        UserError: The arguments do not go together, or fail the checks of the verb to submit.
    """
    if args.job == "train":
        return _training(args)
    if args.overrides:
        raise UserError(
            f"{args.overrides[0]}: --job {args.job} has no configuration; write the arguments of "
            f"`gpt2dist {args.job}` after `--`"
        )
    if not args.words:
        raise UserError(
            f"--job {args.job}: write the arguments of `gpt2dist {args.job}` after `--`, as in: gpt2dist "
            f"submit --job {args.job} … -- …"
        )
    from gpt2dist.cli import build_parser

    theirs = build_parser(args.job).parse_args([args.job, *args.words])
    return _evaluation(theirs, args) if args.job == "evaluate" else _preprocessing(theirs, args)


def _training(args: argparse.Namespace) -> "Work":
    """Check a training run at the requested world size, and return it as work."""
    from gpt2dist.preflight import resolve
    from gpt2dist.preflight.resources import device_memory_bytes, require_resources
    from gpt2dist.submission.job import Work

    if args.words:
        raise UserError(f"-- {args.words[0]}: words after `--` are for --job evaluate and preprocess")
    if not args.overrides:
        raise UserError("no CONFIG; name the YAML file of the run, or another --job")
    file, *overrides = args.overrides
    device_memory = device_memory_bytes(args.device_memory)
    ranks = (args.nodes or 1) * args.gpus_per_node
    config, plan = resolve(Path(file), overrides, ranks)
    require_resources(file, config, plan, device_memory)
    run = config.output_dir.absolute()
    datasets = [*(each.dataset for each in plan.datasets), *(each.dataset for each in plan.validation)]
    # Recorded so that the job refuses to start with another number of ranks.
    run_section = config.run.model_copy(update={"world_size": ranks})
    return Work(
        verb="train",
        name=_on_a_line(config.run.name),
        words=(),
        records=RunDirectory(run).submissions,
        paths=(run, *(dataset.directory.absolute() for dataset in datasets)),
        config=config.model_copy(update={"run": run_section}),
        run=run,
    )


def _evaluation(theirs: argparse.Namespace, args: argparse.Namespace) -> "Work":
    from gpt2dist.commands import evaluate
    from gpt2dist.submission.job import Work

    evaluate.check(theirs)
    run = _run_of(theirs)
    home = run or Path.cwd()
    files = [
        theirs.model,
        theirs.data,
        *(theirs.text or ()),
        theirs.of_run,
        theirs.output and theirs.output.parent,
    ]
    return Work(
        verb="evaluate",
        name=_on_a_line(f"evaluate-{run.name if run else Path(theirs.model).name}"),
        words=tuple(args.words),
        records=RunDirectory(home).submissions,
        paths=tuple(_here(str(file) for file in files if file)),
        endless=theirs.watch,
    )


def _run_of(theirs: argparse.Namespace) -> Path | None:
    """Return the run that an evaluation belongs to; None if the model is not part of a run."""
    if theirs.of_run:
        return Path(theirs.of_run).absolute()
    model = Path(theirs.model).absolute()
    if theirs.all_checkpoints or RunDirectory(model).checkpoints.is_dir():
        return model
    run = model.parent.parent
    return run if model.is_dir() and RunDirectory(run).checkpoints == model.parent else None


def _preprocessing(theirs: argparse.Namespace, args: argparse.Namespace) -> "Work":
    from gpt2dist.commands import preprocess
    from gpt2dist.preprocessing import check
    from gpt2dist.submission.job import Work

    given = [name for name in ("task_index", "task_count", "scheduler") if getattr(theirs, name) is not None]
    given += ["finish"] * theirs.finish
    if given:
        raise UserError(f"--{given[0].replace('_', '-')}: the job sets that itself; leave it out")
    if "-" in theirs.inputs:
        raise UserError("-: a job has no standard input; name files")
    job = preprocess.job_of(theirs)
    tasks = check(job)
    if args.tasks is not None and args.tasks > tasks:
        raise UserError(f"--tasks {args.tasks}: there is work for {tasks} at most; set it to that or less")
    return Work(
        verb="preprocess",
        name=_on_a_line(f"preprocess-{job.output.name}"),
        words=tuple(args.words),
        records=job.submissions.absolute(),
        paths=(*_here([*theirs.inputs, theirs.tokenizer]), job.output.absolute().parent),
    )


def _on_a_line(name: str) -> str:
    """Collapse whitespace, so that the name fits into a one-line comment of a script."""
    return " ".join(name.split())


def _here(names: Iterable[str]) -> Iterable[Path]:
    """Yield the absolute paths of the names that exist on this machine; for a glob, the directory above it."""
    for name in names:
        path = Path(name).absolute()
        while not path.exists() and any(letter in str(path) for letter in "*?["):
            path = path.parent
        if path.exists() and "://" not in name:
            yield path
