"""`gpt2dist quickstart`: the whole pipeline on real text, in minutes."""

import argparse
import sys

from gpt2dist.errors import UserError
from gpt2dist.terminal import say

EXAMPLES = """\
Data go to data/, the run to runs/. A second call does only what is missing. INPUTs get their own names there.

examples:
  gpt2dist quickstart                                          the standard library of this Python, a few minutes
  gpt2dist quickstart 'books/*.txt' --prompt 'Once upon'       your own text
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="files, directories and globs with text; default: the standard library of this Python",
    )
    parser.add_argument(
        "--prompt", default="def main(", help="start of the sample at the end; default: %(default)s"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps; default: 1600")


def run(args: argparse.Namespace) -> int:
    """Run the pipeline, and print its table on standard output."""
    if args.steps is not None and args.steps < 1:
        raise UserError("--steps must be 1 or more")

    from gpt2dist.monitoring.progress import info, is_quiet
    from gpt2dist.quickstart.pipeline import Quickstart, StepFailedError

    quickstart = Quickstart(
        *(tuple(args.inputs), args.prompt, args.steps, is_quiet()),
        on_heading=(lambda title: None) if is_quiet() else _heading,
        on_info=info,
    )
    try:
        say(quickstart.run(), sys.stdout)
    except StepFailedError as error:
        return error.code
    return 0


def _heading(title: str) -> None:
    begin, end = ("\033[1m", "\033[0m") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"\n{begin}── {title}{end}\n")
    sys.stderr.flush()
