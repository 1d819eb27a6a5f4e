"""`gpt2dist verify-resume`: N + N steps of a run equal 2N steps, proved on this machine."""

import argparse
import sys
from pathlib import Path

from gpt2dist.errors import RunError

EXAMPLES = """\
examples:
  gpt2dist verify-resume configs/gpt2-124m.yaml
  gpt2dist launch --nproc-per-node 8 verify-resume configs/gpt2-124m.yaml --steps 20 zero.stage=2

Trains 2N steps of the run, then N steps, a stop, and N more from the checkpoint, both in a directory of their own,
and compares every byte of the weights and moments, and all losses. The run itself is not touched."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("config", type=Path, help="the run's YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="keys to change, values in YAML"
    )
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="optimizer steps of a half (default: 5)")
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> None:
    """Trains twice and compares."""
    from gpt2dist.commands.train import start
    from gpt2dist.training.verification import compare, halves, remove, whole

    config, plan, world = start(args.config, [*args.overrides, "monitoring.log_every_steps=1"])
