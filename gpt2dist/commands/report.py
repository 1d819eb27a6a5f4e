"""`gpt2dist report`: write a run as one self-contained HTML page."""

import argparse
from pathlib import Path

from gpt2dist.errors import UserError
from gpt2dist.terminal import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = """\
The page holds the state, curves, samples, lineage, starts, configuration and environment, and needs no other file
and no network to be seen. The run may be at work.

example:
  gpt2dist report runs/gpt2-124m --output report.html"""
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--output", type=Path, required=True, metavar="F.html", help="the page; written over")


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    from gpt2dist.report.page import report
    from gpt2dist.status.run_files import is_run

    if not is_run(args.run_directory):
        raise UserError(
            f"{args.run_directory}: not a run directory; `gpt2dist status DIR` lists those in a folder"
        )
    text = report(args.run_directory)
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        # Names and texts of the run may contain lone surrogates, which cannot be encoded.
        args.output.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"--output: {args.output} cannot be written ({error.strerror}); name another") from None
    say(f"written {args.output}")
