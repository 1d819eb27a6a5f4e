"""`gpt2dist report`: a run as one page to read and to mail."""

import argparse
import sys
from pathlib import Path

from gpt2dist.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.epilog = """\
The page holds the state, curves, samples, lineage, configuration and environment, and needs no other file and no
network to be seen. The run may be at work.

example:
  gpt2dist report runs/gpt2-124m --output report.html"""
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--output", type=Path, required=True, metavar="F.html", help="the page; written over")


def run(args: argparse.Namespace) -> None:
    """Writes the page."""
    from gpt2dist.report.page import report
    from gpt2dist.status.run_files import is_run

    if not is_run(args.run_directory):
        raise UserError(
            f"{args.run_directory}: not a run directory; `gpt2dist status DIR` lists those in a folder"
        )
    text = report(args.run_directory)
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        # A name or a text of the run may hold half a character.
        args.output.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"--output: {args.output} cannot be written ({error.strerror}); name another") from None
    print(f"written {args.output}", file=sys.stderr)
