"""`gpt2dist submit`: check work against its target machines, render its job script, and submit it."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2dist.errors import UserError
from gpt2dist.terminal import say

if TYPE_CHECKING:  # importing pydantic would slow down --help
    from gpt2dist.submission.schedulers.base import Scheduler

EXAMPLES = """\
examples:
  gpt2dist submit configs/gpt2-124m.yaml --scheduler slurm --nodes 2 --gpus-per-node 8 --time 24:00:00 --dry-run
  gpt2dist submit run.yaml optimizer.lr=3e-4 --scheduler slurm --nodes 1 --gpus-per-node 4 --partition a100
  gpt2dist submit run.yaml --scheduler local --gpus-per-node 2
  gpt2dist submit run.yaml --scheduler kubernetes --nodes 2 --gpus-per-node 8 --container-image IMAGE \\
      --volume training:/data
  gpt2dist submit --job evaluate --scheduler slurm --gpus-per-node 8 \\
      -- runs/gpt2-124m --data data/wikitext --all-checkpoints --watch
  gpt2dist submit --job preprocess --scheduler slurm --dask --nodes 4 -- corpus/ --tokenizer gpt2 --output web
  gpt2dist submit --job preprocess --scheduler slurm --tasks 64 --cpus-per-node 16 \\
      -- 'dumps/*.jsonl.zst' --tokenizer gpt2 --output data/web

What follows `--` are the verb's own arguments, which are checked before anything is submitted. Scripts,
configuration as resolved, code and environment are recorded in RUN/submission/NNN (of preprocessing in
DATASET.submission/NNN), beside the log. A training job runs what is recorded: to change CONFIG afterwards changes
no job that waits. A job that is preempted goes back into the queue and resumes, and so does a training run, or an
evaluation that watches one, near its time limit; one that fails does not.
"""
OPTIONS_OF = {
    "slurm": ("partition", "account", "time", "sbatch", "tasks", "dask"),
    "kubernetes": ("namespace", "volume", "retries"),
    "slurm or kubernetes": ("save_seconds", "cpus_per_node", "container_image"),
}
"""Options that only some schedulers have, by the names of those schedulers."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EXAMPLES
    parser.usage = (
        "gpt2dist submit CONFIG [section.key=value …] --scheduler S --gpus-per-node G [options]\n"
        "       gpt2dist submit --job evaluate|preprocess --scheduler S [options] -- WORDS OF THAT VERB"
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
        choices=("slurm", "local", "kubernetes"),
        required=True,
        help="local: in the background, on this machine",
    )
    add("--nodes", type=int, metavar="N", help="default: 1")
    add("--gpus-per-node", type=int, metavar="G", help="one rank per GPU; without GPUs, processes")
    add("--device-memory", type=float, metavar="GIB", help="memory of each GPU; a run that needs more is refused")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable to set in the job; repeatable",
    )
    add("--dry-run", action="store_true", help="record everything, print the script, submit nothing")
    both = parser.add_argument_group("slurm and kubernetes").add_argument
    both("--container-image", metavar="IMAGE", help="image to run in; its python has gpt2dist (slurm: by pyxis)")
    both("--cpus-per-node", type=int, metavar="C", help="cores of each node (default: slurm: whole nodes)")
    both(
        "--save-seconds",
        type=int,
        metavar="S",
        help="time to save: before the time limit, or once a pod is asked to end (default: 300)",
    )
    slurm = parser.add_argument_group("slurm").add_argument
    slurm("--partition", metavar="NAME", help="default: the cluster's")
    slurm("--account", metavar="NAME", help="default: yours")
    slurm("--time", metavar="LIMIT", help="minutes, H:MM:SS or D-HH:MM:SS (default: the partition's)")
    slurm(
        "--sbatch", action="append", metavar="OPTION", help="a further option, as --sbatch=--qos=high; repeatable"
    )
    slurm("--tasks", type=int, metavar="N", help="preprocess: as an array of N jobs, and one that finishes")
    slurm(
        "--dask",
        action="store_true",
        default=None,
        help="preprocess: as one job, by a Dask cluster on its --nodes, with a worker per core",
    )
    kubernetes = parser.add_argument_group("kubernetes").add_argument
    kubernetes("--namespace", metavar="NAME", help="default: that of kubectl's context")
    kubernetes(
        "--volume",
        action="append",
        metavar="CLAIM:PATH",
        help="a volume claim, and where it is, here as in the job; repeatable",
    )
    kubernetes("--retries", type=int, metavar="N", help="failures of all pods that are tried again (default: 3)")


def run(args: argparse.Namespace) -> None:
    """Check the work, record it and submit it."""
    from gpt2dist.commands.jobs import work_of
    from gpt2dist.run import submissions
    from gpt2dist.submission.job import SchedulerJob, parse_environment, require_fit_for_scripts

    _check(args)
    environment = parse_environment(args.env)
    scheduler = _scheduler(args)
    work = work_of(args)
    directory, python = Path.cwd(), "python" if args.container_image else sys.executable
    require_fit_for_scripts(work, scheduler, environment, directory, python)
    scheduler.check(work)
    job = SchedulerJob(
        work=work,
        record=submissions.make_directory(work.records),
        directory=directory,
        python=python,
        nodes=args.nodes or 1,
        gpus_per_node=args.gpus_per_node or 0,
        environment=environment,
        tasks=args.tasks or 1,
        dask=bool(args.dask),
    )
    files = scheduler.files(job)
    submissions.write(job.record, files, work.config, _asked(args))
    command = scheduler.command(job)
    if args.dry_run:
        say("\n".join(files.values()), sys.stdout, end="")
        say(f"nothing was submitted; recorded in {job.record}; to submit it: {command}")
        return
    say(command)
    names = scheduler.submit(job)
    submissions.record_submission(job.record, scheduler.name, names)
    noun = "process" if args.scheduler == "local" else "job"
    say(f"{noun} {names[0]}, recorded in {job.record}")
    say(scheduler.how_to_follow(job, names))


def _check(args: argparse.Namespace) -> None:
    """Check that the options go with the scheduler and the kind of job."""
    from gpt2dist.submission.job import require_positive

    for schedulers, names in OPTIONS_OF.items():
        given = [_option(name) for name in names if getattr(args, name) is not None]
        if given and args.scheduler not in schedulers:
            raise UserError(f"{', '.join(given)}: for --scheduler {schedulers} only; leave it out")
    if args.scheduler == "local" and args.nodes not in (None, 1):
        raise UserError(f"--nodes {args.nodes}: --scheduler local is this machine alone; leave it out")
    if args.nodes is not None:
        require_positive("--nodes", args.nodes, "the machines of the job")
    if args.job == "preprocess":
        _check_division(args)
    elif args.tasks is not None or args.dask:
        raise UserError("--tasks and --dask: for --job preprocess only; leave them out")
    elif args.gpus_per_node is None:
        raise UserError("--gpus-per-node: missing; one rank is started for each")
    else:
        require_positive("--gpus-per-node", args.gpus_per_node, "the ranks of each machine")
    if args.device_memory is not None and args.job != "train":
        raise UserError("--device-memory: for --job train only; leave it out")


def _check_division(args: argparse.Namespace) -> None:
    """Check the options that divide preprocessing into jobs or workers."""
    from importlib.util import find_spec

    from gpt2dist.submission.job import require_positive

    if args.gpus_per_node is not None:
        raise UserError("--gpus-per-node: not for --job preprocess, which needs none")
    if args.tasks is not None:
        require_positive("--tasks", args.tasks, "the jobs of the array")
    if args.tasks is not None and args.dask:
        raise UserError("--tasks and --dask: an array of jobs, or one job with a Dask cluster; give one of them")
    if args.nodes is not None and not args.dask:
        raise UserError("--nodes: of --job preprocess only with --dask; else --tasks divides it")
    if args.dask and not args.container_image and not find_spec("distributed"):
        raise UserError("--dask: needs Dask; install it with pip install 'gpt2dist[dask]'")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _scheduler(args: argparse.Namespace) -> "Scheduler":
    """Create the chosen scheduler with its options."""
    from gpt2dist.submission.schedulers.kubernetes import Kubernetes
    from gpt2dist.submission.schedulers.local import Local
    from gpt2dist.submission.schedulers.slurm import Slurm

    kind = {"slurm": Slurm, "local": Local, "kubernetes": Kubernetes}[args.scheduler]
    given = {each.name: getattr(args, each.name, None) for each in dataclasses.fields(kind)}
    if kind is Slurm:
        given["options"] = tuple(args.sbatch or ())
    return kind(**given)


def _asked(args: argparse.Namespace) -> dict[str, object]:
    """Return the command line as values that JSON can represent."""
    return {
        name: value for name, value in vars(args).items() if name not in ("run", "verb") and value is not None
    }
