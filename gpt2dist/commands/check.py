"""`gpt2dist check`: measure network, disks, clocks and GPUs of the hosts before a run, and name what is slow."""

import argparse
import math
import sys
from datetime import timedelta
from pathlib import Path

from gpt2dist.cli import EXIT_DONE, EXIT_FAILURE
from gpt2dist.errors import UserError
from gpt2dist.terminal import say

EXAMPLES = """\
examples:
  gpt2dist launch check                                              all GPUs of this host
  gpt2dist launch --nnodes 2 --node-rank 0 --master-addr head --master-port 29500 check --directory runs
  gpt2dist check --directory runs                                    without a launcher: one GPU, and the disk

Takes less than a minute for any number of ranks, besides their start. All ranks work at once. It prints a table
of the hosts, each with the lowest rates of its ranks. Then it prints a line for each rank, link or disk that is
slow compared with the median, each host whose clock or versions differ, and each host that does not share the
directory.

  product   matrix products: fp16 on a GPU, fp32 on a CPU; slow below 0.8 of the median
  within    messages between neighbouring ranks of a host, in each direction; slow below 0.7
  between   messages between neighbouring hosts, of all their ranks at once; slow below 0.7
  across    the same of hosts i and i + N/2
  write     a file in the directory, by one rank of each host, flushed; slow below 0.5
  read      the same file again, without the page cache; slow below 0.5
  clock     by how much it is ahead of the others; wrong from a second on

Exit codes: 0 nothing is wrong, 1 something is."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="directory to check, such as that of the runs; each host writes at most 1 GiB there and removes it "
        "(default: the current directory)",
    )
    parser.add_argument(
        "--seconds",
        type=_positive,
        default=1.0,
        metavar="S",
        help="time for each of about a dozen measurements (default: %(default)s)",
    )
    parser.add_argument(
        "--slow-below",
        type=_positive,
        metavar="FRACTION",
        help="report what is below this fraction of the median (default: 0.5 to 0.8, see below)",
    )
    parser.add_argument(
        "--timeout",
        type=_positive,
        default=120.0,
        metavar="S",
        help="time to wait for another rank before it counts as lost (default: %(default)s)",
    )
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Measure, and print the table and what is wrong."""
    from gpt2dist.api.ranks import joined_ranks
    from gpt2dist.monitoring.logs import quiet_libraries

    quiet_libraries()
    from gpt2dist.distributed import fabric_report
    from gpt2dist.distributed.fabric import measure

    with joined_ranks(timedelta(seconds=args.timeout)) as world:
        world.on_main(lambda: _require_directory(args.directory))
        measured = measure(world, args.directory, args.seconds)
        below = args.slow_below
        limits = fabric_report.Limits(below, below, below) if below else fabric_report.Limits()
        wrong = fabric_report.findings(measured, limits)
        if world.is_main:
            say(f"{fabric_report.summary(measured)}\n\n{fabric_report.table(measured)}\n", sys.stdout)
            say("\n".join(f"wrong: {line}" for line in wrong) or "nothing is wrong", sys.stdout)
        world.all(True)  # a launcher ends the other ranks once the first has exited
    return EXIT_FAILURE if wrong else EXIT_DONE


def _require_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; create it, or name another with --directory")


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number
