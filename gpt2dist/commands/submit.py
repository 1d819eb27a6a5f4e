"""`gpt2dist submit`: checks a run for the nodes it is meant for, renders its job script, and submits it."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2dist.errors import UserError

if TYPE_CHECKING:  # pydantic would slow --help down
    from gpt2dist.config import Config
    from gpt2dist.plan import Plan
    from gpt2dist.submission.slurm import Request

EXAMPLES = """\
examples:
  gpt2dist submit configs/gpt2-124m.yaml --scheduler slurm --nodes 2 --gpus-per-node 8 --time 24:00:00 --dry-run
  gpt2dist submit run.yaml optimizer.lr=3e-4 --scheduler slurm --nodes 1 --gpus-per-node 4 --partition a100
  gpt2dist submit run.yaml --scheduler local --gpus-per-node 2

Script, configuration as resolved, code and environment are recorded in RUN/submission/NNN, beside the log.
What the job runs is that record: to change CONFIG afterwards changes no job that waits. A Slurm job that is
preempted or comes near its time limit saves, goes back into the queue and goes on; one that fails does not.
"""
GIB = 2**30
ONLY_SLURM = ("partition", "account", "time", "save_seconds", "cpus_per_node", "container_image", "sbatch")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG", help="YAML file of the run")
    add(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="keys to set instead of the file; values are YAML",
    )
    add(
        "--scheduler", choices=("slurm", "local"), required=True, help="local: in the background, on this machine"
    )
    add("--nodes", type=int, default=1, metavar="N", help="default: 1")
    add("--gpus-per-node", type=int, required=True, metavar="G", help="one rank per GPU; without GPUs, processes")
    add("--device-memory", type=float, metavar="GIB", help="memory of each GPU; a run that needs more is refused")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable to set in the job; repeatable",
    )
    add("--dry-run", action="store_true", help="record everything, print the script, submit nothing")
    slurm = parser.add_argument_group("slurm").add_argument
    slurm("--partition", metavar="NAME", help="default: the cluster's")
    slurm("--account", metavar="NAME", help="default: yours")
    slurm("--time", metavar="LIMIT", help="minutes, H:MM:SS or D-HH:MM:SS (default: the partition's)")
    slurm("--save-seconds", type=int, metavar="S", help="asked to save so long before the limit (default: 300)")
    slurm("--cpus-per-node", type=int, metavar="C", help="cores of each node (default: whole nodes)")
    slurm("--container-image", metavar="IMAGE", help="image to run in, by pyxis; its python has gpt2dist")
    slurm(
        "--sbatch", action="append", metavar="OPTION", help="a further option, as --sbatch=--qos=high; repeatable"
    )


def run(args: argparse.Namespace) -> None:
    """Checks, records, submits."""
    from gpt2dist.submission import local, record, slurm
    from gpt2dist.submission.plan import Job, parse_environment, require_positive

    require_positive("--nodes", args.nodes, "the machines of the job")
    require_positive("--gpus-per-node", args.gpus_per_node, "the ranks of each machine")
    environment = parse_environment(args.env)
    request = _slurm_request(args)
    config, plan = _checked(args)
    run_directory = config.output_dir.absolute()
    job = Job(
        name=" ".join(config.run.name.split()),  # it stands in comments, too
        run=run_directory,
        record=record.make_directory(run_directory),
        directory=Path.cwd(),
        python="python" if args.container_image else sys.executable,
        nodes=args.nodes,
        gpus_per_node=args.gpus_per_node,
        environment=environment,
    )
    script = slurm.script(job, request, _datasets(plan)) if request else local.script(job)
    record.write(job.record, script, config, _asked(args))
    command = slurm.sbatch(job.script) if request else local.command(job.script)
    if args.dry_run:
        print(script, end="")
        _say(f"nothing was submitted; recorded in {job.record}; to submit it: {shlex.join(command)}")
        return
    _say(shlex.join(command))
    number = slurm.submit(job.script) if request else local.start(job)
    record.note(job.record, **({"slurm_job": number} if request else {"pid": number}))
    _say(f"{'job' if request else 'process'} {number}, recorded in {job.record}")
    _say((slurm if request else local).how_to_follow(job, number))


def _slurm_request(args: argparse.Namespace) -> "Request | None":
    """What Slurm is asked; None where the job is for this machine."""
    from gpt2dist.submission.slurm import SAVE_SECONDS, Request

    if args.scheduler == "local":
        _require_one_machine(args)
        return None
    request = Request(
        partition=args.partition,
        account=args.account,
        time=args.time,
        save_seconds=SAVE_SECONDS if args.save_seconds is None else args.save_seconds,
        cpus_per_node=args.cpus_per_node,
        container_image=args.container_image,
        options=tuple(args.sbatch or ()),
    )
    request.check()
    return request


def _require_one_machine(args: argparse.Namespace) -> None:
    """Refuses what one machine without a scheduler has not."""
    given = [f"--{name.replace('_', '-')}" for name in ONLY_SLURM if getattr(args, name) is not None]
    if given:
        raise UserError(f"{', '.join(given)}: for --scheduler slurm only; leave it out")
    if args.nodes != 1:
        raise UserError(f"--nodes {args.nodes}: --scheduler local is this machine alone; leave it out")


def _checked(args: argparse.Namespace) -> "tuple[Config, Plan]":
    """The run as it will be submitted, for a world of that size.

    Raises:
        UserError: It could not run; lists every mistake.
    """
    from gpt2dist.preflight import resolve
    from gpt2dist.preflight.resources import require_resources

    if args.device_memory is not None and not args.device_memory > 0:
        raise UserError(f"--device-memory {args.device_memory:g}: must be above 0, in GiB per GPU")
    ranks = args.nodes * args.gpus_per_node
    config, plan = resolve(args.config, args.overrides, ranks)
    require_resources(str(args.config), config, plan, args.device_memory and int(args.device_memory * GIB))
    run_section = config.run.model_copy(update={"world_size": ranks})  # another number is refused when it starts
    return config.model_copy(update={"run": run_section}), plan


def _datasets(plan: "Plan") -> list[Path]:
    trained = [each.dataset.directory for each in plan.datasets]
    validated = [each.dataset.directory for each in plan.validation]
    return [path.absolute() for path in trained + validated]


def _asked(args: argparse.Namespace) -> dict[str, object]:
    """The command line as JSON can hold it."""
    given = {name: value for name, value in vars(args).items() if name not in ("run", "verb")}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in given.items()
        if value is not None
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr)
