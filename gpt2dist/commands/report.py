"""`gpt2dist report`: write a run as one self-contained HTML page."""

import argparse
from pathlib import Path

from gpt2dist.api.run import Run
from gpt2dist.terminal import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = """\
The page contains the state, curves, samples, lineage, starts, configuration and environment. It needs no other
file and no network. The run may still be active.

example:
  gpt2dist report runs/gpt2-124m --output report.html"""
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="F.html", help="file to write; replaced if it exists"
    )


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    say(f"wrote {Run(args.run_directory).report(args.output)}")
