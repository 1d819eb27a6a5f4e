"""`gpt2dist report`: write one or several runs as one self-contained HTML page."""

import argparse
import sys
from pathlib import Path

from gpt2dist.api.run import Run
from gpt2dist.errors import UserError
from gpt2dist.terminal import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = """\
The page contains a summary, curves, samples, lineage, starts, configuration and environment. Several runs share
the charts. The page needs no other file and no network. Its path goes to standard output. A run may
still be active.

examples:
  gpt2dist report runs/gpt2-124m
  gpt2dist report runs/gpt2-124m --output report.html
  gpt2dist report runs/a runs/b --output both.html"""
    parser.add_argument("run_directories", type=Path, nargs="+", metavar="RUN", help="a run directory")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="F.html",
        help="file to write; replaced if it exists (default: RUN/report.html; required for several runs)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    first, *others = (Run(path) for path in args.run_directories)
    if others and args.output is None:
        raise UserError("several runs need --output F.html, the page that they share")
    say(str(first.report(args.output, others)), sys.stdout)
