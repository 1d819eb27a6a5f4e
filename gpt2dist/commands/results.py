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
        "model",
        metavar="MODEL",
        help="a checkpoint (or RUN/checkpoints/best), a run directory, a model directory, or NAME or "
        "NAME@REVISION on the hub",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=8,
        metavar="B",
        help="windows, passages or questions per forward pass; default: %(default)s",
    )
    parser.add_argument(
        "--zero-stage",
        type=int,
        choices=(0, 3),
        default=0,
        help="3 partitions the parameters across all processes, for models that do not fit on one device; "
        "0 gives each process a replica; default: %(default)s",
    )
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "tf32"),
        default="fp32",
        help="how the model computes; bf16 and tf32 (fp32 with rounded factors, on a GPU) are faster and less "
        "exact; `evaluate` of a text measures and shows their difference from fp32; default: %(default)s",
    )
    parser.add_argument(
        "--measure",
        action="append",
        default=[],
        metavar="package.module:NAME",
        help="also compute this measure, besides ours and those of installed packages; may be repeated",
    )
    parser.add_argument(
        "--output", type=Path, metavar="F.json", help="also write the result to this file, as JSON"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def check(args: argparse.Namespace) -> None:
    """Check the common options before the work starts.

    Raises:
        UserError: The batch size is below 1, or --output cannot be written.
    """
    if args.batch_size < 1:
        raise UserError("--batch-size must be at least 1")
    if args.output:
        check_file(args.output)


def speed(result: Mapping[str, Any]) -> str:
    """Return the speed of an evaluation in words."""
    return f"{result['tokens_per_second']:,.0f} tokens per second on {result['world_size']} process(es)"


def print_result(result: dict[str, Any], shown: Mapping[str, str], args: argparse.Namespace) -> None:
    """Write a result to --output if given, and print it: as JSON with --json, else as a table of `shown`."""
    import orjson

    text = orjson.dumps(result, option=orjson.OPT_INDENT_2).decode()
    if args.output:
        write_file(args.output, text + "\n")
    if args.json:
        say(text, sys.stdout)
        return
    rows = {**shown, **({"written": str(args.output)} if args.output else {})}
    width = max(map(len, rows))
    for name, value in rows.items():
        say(f"{name:>{width}}  {value}", sys.stdout)
