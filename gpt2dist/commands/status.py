"""`gpt2dist status`: show the state of a run, or of all runs in a folder."""

import argparse
import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path

from gpt2dist import json_files
from gpt2dist.errors import UserError
from gpt2dist.status import table
from gpt2dist.status.run_files import DEPTH, find_runs
from gpt2dist.status.status import Status, read_status
from gpt2dist.terminal import printable, say

REFRESH_SECONDS = 2.0
PLAIN_SECONDS = 10.0
"""Seconds between updates if the output is a log file or a pipe, which is not redrawn in place."""
TO_TOP, CLEAR_BELOW = "\x1b[H", "\x1b[J"

EPILOG = f"""\
States: submitted (waiting for its scheduler), running, stale (it seems to run on another host, but has written
nothing for much longer than usual), finished, stopped (on request, everything saved), failed. They are read from
the run directories, at most {DEPTH} folders down. That needs neither torch nor a GPU: a login node will do.

The full status of a run ends with its last start and what that changed; --json has all starts.

examples:
  gpt2dist status runs/gpt2-124m                 the full status of one run
  gpt2dist status runs                           a table of all runs
  gpt2dist status runs --watch                   the same, updated until Ctrl-C, running runs on top
  gpt2dist status runs --json | jq -r 'select(.state == "failed").run'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EPILOG
    parser.add_argument("directory", type=Path, metavar="RUN|DIR", help="a run directory, or a folder of runs")
    parser.add_argument("--watch", action="store_true", help="update every few seconds, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print one line of JSON per run")


def run(args: argparse.Namespace) -> None:
    """Print the statuses once, or with --watch repeatedly."""
    home: Path = args.directory
    statuses = look(home, args.json)
    if not args.watch:
        _print_statuses(statuses, home, args.json)
        return
    in_place = not args.json and sys.stdout.isatty()
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            if in_place:
                _redraw(statuses, home)
            elif args.json:
                _print_statuses(statuses, home, as_json=True)
            else:
                for status in statuses:
                    say(table.line(status, home), sys.stdout)
            time.sleep(REFRESH_SECONDS if in_place else PLAIN_SECONDS)
            with contextlib.suppress(UserError):  # the runs may have been removed
                statuses = look(home, args.json)


def look(home: Path, all_starts: bool = False) -> list[Status]:
    """Return the status of a run, or of each run in a folder.

    Args:
        home: The directory of the run or runs.
        all_starts: Whether to read the records of all starts.

    Raises:
        UserError: The directory does not exist, cannot be listed, or contains no run.
    """
    try:
        runs = find_runs(home)
    except FileNotFoundError:
        raise UserError(f"{home}: no such directory; name a run directory or a folder of runs") from None
    except NotADirectoryError:
        raise UserError(f"{home}: not a directory; name a run directory or a folder of runs") from None
    except OSError as error:
        raise UserError(f"{home}: cannot be listed ({error.strerror}); name another folder") from None
    if not runs:
        raise UserError(
            f"{home}: no run here or up to {DEPTH} folders down; `gpt2dist train` writes one to run.output_dir"
        )
    return [read_status(each, all_starts) for each in runs]


def _print_statuses(statuses: list[Status], home: Path, as_json: bool) -> None:
    if as_json:
        for status in statuses:
            evaluations = [each.as_json() for each in status.evaluations]
            say(json_files.dump(dataclasses.asdict(status) | {"evaluations": evaluations}), sys.stdout)
    else:
        say("\n".join(table.show(statuses, home)), sys.stdout)


def _redraw(statuses: list[Status], home: Path) -> None:
    """Print the statuses over the previous ones, fitted to the terminal, so that it does not scroll."""
    size = os.get_terminal_size(sys.stdout.fileno())
    columns, rows = size.columns or 80, size.lines or 24  # some terminals report a size of 0
    lines = table.fitted(statuses, home, columns, rows - 1)  # the last line is left to the cursor
    text = "\n".join(printable(line)[:columns] for line in lines)
    sys.stdout.write(f"{TO_TOP}{CLEAR_BELOW}")
    say(text, sys.stdout)
