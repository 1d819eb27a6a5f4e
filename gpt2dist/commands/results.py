"""Options and output that are common to the verbs that score a model."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2dist.errors import UserError
from gpt2dist.output_paths import check_file, write_file
from gpt2dist.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model and the options that do not depend on the text to score."""
    parser.add_argument(
        "model", metavar="MODEL", help="a checkpoint, a run directory, a model directory or a hub name"
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="default: %(default)s")
    parser.add_argument(
        "--zero-stage",
        type=int,
        choices=(0, 3),
        default=0,
        help="3 holds the model in parts on all processes, for one that does not fit on one; "
        "0 gives each a replica; default: %(default)s",
    )
    parser.add_argument("--output", type=Path, metavar="F.json", help="write the result there as JSON too")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


def check(args: argparse.Namespace) -> None:
    """Check the common options before the work starts.

    Raises:
        UserError: The batch size is below 1, or --output cannot be written.
    """
    if args.batch_size < 1:
        raise UserError("--batch-size must be at least 1")
    if args.output:
        check_file(args.output)


def print_result(result: dict[str, Any], shown: Mapping[str, str], args: argparse.Namespace) -> None:
    """Write a result to --output if given, and print it: as JSON with --json, else as a table of `shown`."""
    import orjson

    text = orjson.dumps(result, option=orjson.OPT_INDENT_2).decode()
    if args.output:
        write_file(args.output, text + "\n")
    if args.json:
        say(text, sys.stdout)
        return
    for name, value in shown.items():
        say(f"{name:>16}  {value}")
    if args.output:
        say(f"{'written':>16}  {args.output}")
