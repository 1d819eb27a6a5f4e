"""`gpt2dist verify-resume`: verify on this machine that a resumed run is exact: N + N steps equal 2N steps."""

import argparse
import sys

from gpt2dist.cli import add_run_file
from gpt2dist.errors import RunError
from gpt2dist.run.directory import RunDirectory
from gpt2dist.terminal import say

EXAMPLES = """\
examples:
  gpt2dist verify-resume configs/gpt2-124m.yaml
  gpt2dist launch --nproc-per-node 8 verify-resume configs/gpt2-124m.yaml --steps 20 zero.stage=2

Trains 2N steps of the run in RUN/verify-resume. Then it trains N steps, stops, and trains N more from the
checkpoint. It compares all losses and every byte of weights and moments. The run itself is not changed.

On a GPU without run.deterministic, the 2N steps are first trained a second time. If these two trainings differ,
the GPU does not repeat its own results, and the command says so: set run.deterministic=true. On a CPU and with
run.deterministic, the second training only follows if the resumed one differs, to tell the cause."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_run_file(parser)
    parser.add_argument(
        "--steps", type=int, default=5, metavar="N", help="optimizer steps of each half (default: 5)"
    )
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> None:
    """Train without and with a resume, and compare the results."""
    from gpt2dist.commands.train import start

    config, plan, world = start(args.config, args.overrides)
    from gpt2dist.distributed.world import leave
    from gpt2dist.monitoring.logs import rank_logging
    from gpt2dist.training.failure import report_rank_failure
    from gpt2dist.training.verify_resume import SHOWN, verify_resume

    home = RunDirectory(config.output_dir).verify_resume
    with rank_logging(home, world.rank), report_rank_failure(home, world):
        differences = verify_resume(config, plan, world, args.steps)
        if differences:
            listed = "".join(f"\n  {line}" for line in differences[:SHOWN])
            raise RunError(f"{args.steps} + {args.steps} steps differ from {2 * args.steps}; see {home}{listed}")
    if world.is_main:
        say(f"{args.steps} + {args.steps} steps equal {2 * args.steps}: same losses, same bytes", sys.stdout)
    leave()
