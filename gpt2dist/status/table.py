"""Format statuses as text: a table of runs, or one run in full."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt2dist.run.starts import Start
from gpt2dist.status.evaluations import Evaluation
from gpt2dist.status.status import Status, duration

NOTHING = "–"
SHOWN_CHANGES = 8
"""At most this many changes of the last start are listed."""
HEADER = (
    *("run", "state", "step", "loss", "left", "tokens/s", "checkpoint", "evaluation"),
    *("MFU", "perplexity", "skipped"),
)
"""Columns of the table, the most important ones first."""
NEVER_DROPPED = 2
"""This many columns are shown however narrow the terminal is."""
GAP = "  "


def show(statuses: Sequence[Status], home: Path) -> list[str]:
    """Return the lines to print: the full status of `home` if it is a run, else a table and the reasons.

    Args:
        statuses: Statuses of the runs.
        home: The requested directory. Runs are named by their path relative to it.
    """
    if len(statuses) == 1 and Path(statuses[0].run) == home:
        return [f"{name:>14}  {value}" for name, value in in_full(statuses[0])]
    return [*_table(statuses, home), *_remarks(statuses, home)]


def fitted(statuses: Sequence[Status], home: Path, columns: int, rows: int) -> list[str]:
    """Return the lines of `show` that fit on a terminal, with the running runs on top.

    The columns of a table that do not fit are left out, and the last line says how much more there is.

    Args:
        statuses: Statuses of the runs.
        home: The requested directory.
        columns: Number of characters of a line.
        rows: Number of lines.
    """
    if len(statuses) == 1 and Path(statuses[0].run) == home:
        return _first(show(statuses, home), rows)
    ordered = sorted(statuses, key=lambda status: status.state != "running")
    lines = _first(_table(ordered, home, columns), rows)
    remarks = _remarks(ordered, home)
    return lines + (_first(remarks, rows - len(lines)) if rows - len(lines) > 2 else [])


def _first(lines: list[str], limit: int) -> list[str]:
    """Return as many lines as fit, the last one saying how many more there are."""
    if len(lines) <= limit:
        return lines
    shown = max(limit - 1, 0)
    return [*lines[:shown], f"… {len(lines) - shown} more"]


def _table(statuses: Sequence[Status], home: Path, limit: int | None = None) -> list[str]:
    """Return the lines of the table, with the columns that fit into `limit` characters."""
    columns = list(zip(HEADER, *(_row(status, home) for status in statuses), strict=True))
    shown: list[list[str]] = []
    used = -len(GAP)
    for number, column in enumerate(columns):
        width = max(map(len, column))
        if limit is None or number < NEVER_DROPPED or used + len(GAP) + width <= limit:
            shown.append([cell.ljust(width) for cell in column])
            used += len(GAP) + width
    return [GAP.join(row).rstrip() for row in zip(*shown, strict=True)]


def _remarks(statuses: Sequence[Status], home: Path) -> list[str]:
    """Return the reasons of the states, after an empty line."""
    remarks = [f"{_name(each, home)} {each.state}: {each.reason}" for each in statuses if each.reason]
    return [*([""] if remarks else []), *remarks]


def in_full(status: Status) -> list[tuple[str, str]]:
    """Return everything known about a run, as names and values."""
    reason = f": {status.reason}" if status.reason else ""
    return [
        ("run", status.run),
        ("state", status.state + reason),
        ("step", _steps(status)),
        *_measures(status),
        ("checkpoint", _checkpoint(status)),
        *([("best", status.best.described())] if status.best else []),
        *[("evaluation", _evaluation(each)) for each in status.evaluations],
        ("skipped steps", _count(status.skipped_steps)),
        *[("slowest rank", each.described()) for each in status.rank_times],
        *_starts(status),
    ]


def start_line(start: Start) -> str:
    """Describe a start in one line, apart from what it changed."""
    when = NOTHING if start.time is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(start.time))
    ranks = "" if start.world_size is None else f", {start.world_size:,} rank{'s' * (start.world_size != 1)}"
    return f"{when}, at step {_count(start.step)}{ranks}"


def line(status: Status, home: Path) -> str:
    """Format the status of a run in one line, for logs."""
    cells = dict(zip(HEADER, _row(status, home), strict=True))
    name, state = cells.pop("run"), cells.pop("state")
    known = [f"{title} {cell}" for title, cell in cells.items() if cell != NOTHING]
    return ", ".join([f"{name}: {state}{f' ({status.reason})' if status.reason else ''}", *known])


def _starts(status: Status) -> Iterator[tuple[str, str]]:
    """Yield the number of starts, the last one, and what it changed."""
    if not status.starts:
        return
    last = status.starts[-1]
    yield "starts", f"{status.start_count:,}, the last {start_line(last)}"
    for change in last.changes[:SHOWN_CHANGES]:
        yield "changed", str(change)
    if len(last.changes) > SHOWN_CHANGES:
        yield "changed", f"and {len(last.changes) - SHOWN_CHANGES} more; see --json"


def _row(status: Status, home: Path) -> tuple[str, ...]:
    """Return the cells of a run, in the order of `HEADER`."""
    cells = {
        "run": _name(status, home),
        "state": status.state,
        "step": _steps(status),
        **dict(_measures(status)),
        "checkpoint": _checkpoint(status),
        "evaluation": _evaluation(status.evaluations[0]) if status.evaluations else NOTHING,
        "skipped": _count(status.skipped_steps),
    }
    return tuple(cells[name] for name in HEADER)


def _measures(status: Status) -> list[tuple[str, str]]:
    left = NOTHING if status.seconds_left is None else duration(status.seconds_left)
    return [
        ("loss", _number(status.loss, ".4f")),
        ("perplexity", _number(status.perplexity, ".4g" if (status.perplexity or 0) >= 1e6 else ",.2f")),
        ("tokens/s", _number(status.tokens_per_second, ",.0f")),
        ("MFU", _number(status.mfu, ".1%")),
        ("left", left),
    ]


def _name(status: Status, home: Path) -> str:
    name = os.path.relpath(status.run, home)
    return Path(status.run).resolve().name if name == "." else name


def _steps(status: Status) -> str:
    if status.step is None or not status.total_steps:
        return _count(status.step)
    return f"{status.step:,}/{status.total_steps:,} {int(100 * status.step / status.total_steps)}%"


def _checkpoint(status: Status) -> str:
    saved = status.checkpoint
    return f"{saved.step:,}, {duration(saved.age)} ago" if saved else NOTHING


def _evaluation(result: Evaluation) -> str:
    return f"{result.name} {result.described() or NOTHING} at {result.step:,}"


def _count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else f"{value:{form}}"
