"""`gpt2dist submit`: check a job for its target machines, render its script, and submit it to a scheduler."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from gpt2dist.errors import RunError, UserError
from gpt2dist.terminal import say

EXAMPLES = """\
examples:
  gpt2dist submit configs/gpt2-124m.yaml --scheduler slurm --nodes 2 --gpus-per-node 8 --time 24:00:00 --dry-run
  gpt2dist submit run.yaml optimizer.lr=3e-4 --scheduler slurm --nodes 1 --gpus-per-node 4 --partition a100
  gpt2dist submit run.yaml --scheduler local --gpus-per-node 2
  gpt2dist submit run.yaml --scheduler kubernetes --nodes 2 --gpus-per-node 8 --container-image IMAGE \\
      --volume training:/data
  gpt2dist submit --job evaluate --scheduler slurm --gpus-per-node 1 --cpus-per-node 8 \\
      -- runs/gpt2-124m --data data/wikitext --all-checkpoints --watch
  gpt2dist submit --job preprocess --scheduler slurm --dask --nodes 4 -- corpus/ --tokenizer gpt2 --output web
  gpt2dist submit --job preprocess --scheduler slurm --tasks 64 --cpus-per-node 16 \\
      -- 'dumps/*.jsonl.zst' --tokenizer gpt2 --output data/web
  gpt2dist submit --scheduler mytools:PBS --help           the options of a scheduler from another package

The arguments after `--` belong to `gpt2dist evaluate` or `gpt2dist preprocess`, and are checked before anything
is submitted. The scripts, the resolved configuration, the code and the environment are saved with the log in
RUN/submission/NNN (preprocessing: DATASET.submission/NNN). A training job reads the saved configuration: changes
to CONFIG do not affect jobs that are already submitted.

Preempted jobs are requeued and resume. So do training runs, and evaluations that watch one, when they near their
time limit. Jobs that fail are not restarted.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options that do not depend on the scheduler."""
    parser.epilog = EXAMPLES
    parser.usage = (
        "gpt2dist submit CONFIG [section.key=value …] --scheduler S --gpus-per-node G [options]\n"
        "       gpt2dist submit --job evaluate|preprocess --scheduler S [options] -- ARGUMENTS OF THAT VERB"
    )
    add = parser.add_argument
    add(
        "overrides",
        nargs="*",
        metavar="CONFIG [section.key=value …]",
        help="YAML file of the run, and keys to set instead of the file; values are YAML",
    )
    add("--job", choices=("train", "evaluate", "preprocess"), default="train", help="default: %(default)s")
    add(
        "--scheduler",
        required=True,
        metavar="S",
        help="slurm, kubernetes, local (in the background, on this machine), one that another package has "
        "registered, or package.module:Class",
    )
    add("--nodes", type=int, metavar="N", help="default: 1")
    add("--gpus-per-node", type=int, metavar="G", help="one rank per GPU, or processes if there are no GPUs")
    add("--device-memory", type=float, metavar="GIB", help="memory of each GPU; a run that needs more is refused")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an environment variable to set in the job; repeatable",
    )
    add("--dry-run", action="store_true", help="write all files and print the script, but submit nothing")


def add_scheduler_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the options of our schedulers, and those of another one that the command line names.

    Args:
        parser: The parser of this verb.
        arguments: The command line, before any `--`.
    """
    from gpt2dist.submission.options import add_options, find_schedulers

    first_pass = argparse.ArgumentParser(add_help=False)
    first_pass.add_argument("--scheduler", nargs="?")
    chosen = first_pass.parse_known_args(arguments)[0].scheduler
    try:
        add_options(parser, find_schedulers(chosen), chosen)
    except ValueError as error:
        parser.error(f"--scheduler {chosen}: {error}")


def run(args: argparse.Namespace) -> None:
    """Check the job, write its files and submit it."""
    from gpt2dist.commands.jobs import work_of
    from gpt2dist.run import submissions
    from gpt2dist.submission.job import SchedulerJob, parse_environment, require_fit_for_scripts
    from gpt2dist.submission.options import create, find_schedulers, require_own

    schedulers = find_schedulers(args.scheduler)
    require_own(args, schedulers)
    _check(args)
    environment = parse_environment(args.env)
    scheduler = create(schedulers[args.scheduler], args)
    work = work_of(args)
    here, python = Path.cwd(), "python" if args.container_image else sys.executable
    require_fit_for_scripts(work, scheduler, environment, here, python)
    scheduler.check(work)
    job = SchedulerJob(
        work=work,
        submission_directory=work.submissions_directory / "NNN",
        working_directory=here,
        python=python,
        nodes=args.nodes or 1,
        gpus_per_node=args.gpus_per_node or 0,
        environment=environment,
        tasks=args.tasks or 1,
        dask=bool(args.dask),
    )
    scheduler.check_resources(job)
    directory = submissions.make_directory(work.submissions_directory)
    job = dataclasses.replace(job, submission_directory=directory)
    files = scheduler.files(job)
    submissions.write(job.submission_directory, files, work.config, _options(args))
    command = scheduler.command(job)
    if args.dry_run:
        say("\n".join(files.values()), sys.stdout, end="")
        say(f"nothing was submitted; the files are in {job.submission_directory}; to submit them: {command}")
        return
    say(command)
    ids = scheduler.submit(job)
    _require_ids(ids, args.scheduler, command)
    submissions.record_submission(job.submission_directory, args.scheduler, ids)
    say(f"{scheduler.noun} {ids[0]}, its files are in {job.submission_directory}")
    say(scheduler.next_steps(job, ids))


def _check(args: argparse.Namespace) -> None:
    """Check that the options go with the kind of job."""
    from gpt2dist.submission.job import require_positive

    if args.nodes is not None:
        require_positive("--nodes", args.nodes, "the machines of the job")
    if args.job == "preprocess":
        _check_division(args)
    elif args.tasks is not None or args.dask:
        raise UserError("--tasks and --dask: for --job preprocess only; omit them")
    elif args.gpus_per_node is None:
        raise UserError("--gpus-per-node: missing; one rank is started for each GPU")
    else:
        require_positive("--gpus-per-node", args.gpus_per_node, "the ranks of each machine")
    if args.device_memory is not None and args.job != "train":
        raise UserError("--device-memory: for --job train only; omit it")


def _check_division(args: argparse.Namespace) -> None:
    """Check the options that divide preprocessing into jobs or workers."""
    from importlib.util import find_spec

    from gpt2dist.submission.job import require_positive

    if args.gpus_per_node is not None:
        raise UserError("--gpus-per-node: --job preprocess uses no GPUs; omit it")
    if args.tasks is not None:
        require_positive("--tasks", args.tasks, "the jobs of the array")
    if args.tasks is not None and args.dask:
        raise UserError("--tasks and --dask: an array of jobs, or one job with a Dask cluster; give one of them")
    if args.nodes is not None and not args.dask:
        raise UserError("--nodes: --job preprocess takes it only with --dask; --tasks divides it into jobs")
    if args.dask and not args.container_image and not find_spec("distributed"):
        raise UserError("--dask: needs Dask; install it with pip install 'gpt2dist[dask]'")


def _require_ids(ids: object, scheduler: str, command: str) -> None:
    """Check what a scheduler, perhaps of another package, returned for a job that it has submitted."""
    if not (isinstance(ids, list) and ids and all(isinstance(each, int | str) for each in ids)):
        raise RunError(
            f"--scheduler {scheduler}: submit() returned {ids!r} instead of a list of job ids, so `gpt2dist "
            f"status` cannot show the job; it may have been submitted all the same, as by: {command}"
        )


def _options(args: argparse.Namespace) -> dict[str, object]:
    """Return the command line as values that JSON can represent."""
    return {
        name: value for name, value in vars(args).items() if name not in ("run", "verb") and value is not None
    }
