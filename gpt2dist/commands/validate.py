"""`gpt2dist validate`: report all mistakes of a run configuration together, or print the plan of the run."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from gpt2dist.cli import add_run_file
from gpt2dist.errors import UserError
from gpt2dist.terminal import say

if TYPE_CHECKING:  # importing numpy and pydantic would slow down --help
    from gpt2dist.plan import Plan

EXAMPLES = """\
examples:
  gpt2dist validate configs/gpt2-124m.yaml --world-size 8 --device-memory 80 --device H100
  gpt2dist validate run.yaml optimizer.lr=3e-4 data.train.0.path=data/books --json

Memory and hours are estimates. A run that does not fit into the memory given or onto the disk is an error.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EXAMPLES
    add_run_file(parser)
    parser.add_argument(
        "--world-size",
        type=int,
        metavar="N",
        help="ranks of the run (default: run.world_size, or 1)",
    )
    parser.add_argument(
        "--device-memory",
        type=float,
        metavar="GIB",
        help="memory of each GPU in GiB; refuse a run that needs more (default: not checked)",
    )
    parser.add_argument("--device", metavar="NAME", help="GPU for which to estimate the hours, such as H100")
    parser.add_argument(
        "--verify-data",
        action="store_true",
        help="read all datasets and compare them with their manifests",
    )
    parser.add_argument("--json", action="store_true", help="print configuration and plan as JSON")


def run(args: argparse.Namespace) -> None:
    """Check the configuration and print the plan."""
    from gpt2dist.dataset.manifest import without_sha256
    from gpt2dist.monitoring.progress import info
    from gpt2dist.preflight import resolve
    from gpt2dist.preflight.report import as_json, count, render, table
    from gpt2dist.preflight.resources import device_memory_bytes, require_resources

    if args.world_size is not None and args.world_size < 1:
        raise UserError(f"--world-size {args.world_size}: must be at least 1, the number of ranks of the run")
    device_memory = device_memory_bytes(args.device_memory)
    config, plan = resolve(args.config, args.overrides, args.world_size)
    require_resources(str(args.config), config, plan, device_memory)
    if note := without_sha256(plan.manifests):
        info(note, "validate")
    if args.verify_data:
        verify_data(plan)
    if args.json:
        say(json.dumps(as_json(config, plan, args.device), indent=2, ensure_ascii=False), sys.stdout)
    else:
        say(f"{args.config}: valid, for {count(plan.world_size, 'rank')}", sys.stdout)
        say(render(table(config, plan, args.device)), sys.stdout)


def verify_data(plan: "Plan") -> None:
    """Read every dataset of a run and compare it with its manifest.

    Raises:
        UserError: A dataset does not match its manifest.
    """
    from gpt2dist.dataset.verify import token_bytes, verify
    from gpt2dist.monitoring.progress import Progress

    for directory, manifest in {each.directory: each for each in plan.manifests}.items():
        with Progress(f"verify {directory.name}", token_bytes(manifest), "B", scale=True) as progress:
            verify(manifest, progress.advance)
