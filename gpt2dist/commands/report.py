"""`gpt2dist report`: write a run as one self-contained HTML page."""

import argparse
from pathlib import Path

from gpt2dist.api.run import Run
from gpt2dist.terminal import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = """\
The page shows the state, curves, samples, lineage, starts, configuration and environment of the run. It needs no
other file and no network. The run may still be training.

example:
  gpt2dist report runs/gpt2-124m --output report.html"""
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="F.html", help="the page; an existing file is replaced"
    )


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    say(f"written {Run(args.run_directory).report(args.output)}")
