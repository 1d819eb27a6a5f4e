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
    *("run", "state", "step", "loss", "perplexity", "tokens/s", "MFU", "left"),
    *("checkpoint", "evaluation", "skipped"),
)


def show(statuses: Sequence[Status], home: Path) -> list[str]:
    """Return the lines to print: the full status of `home` if it is a run, else a table and the reasons.

    Args:
        statuses: Statuses of the runs.
        home: The requested directory. Runs are named by their path relative to it.
    """
    if len(statuses) == 1 and Path(statuses[0].run) == home:
        return [f"{name:>14}  {value}" for name, value in in_full(statuses[0])]
    rows = [HEADER, *(_row(status, home) for status in statuses)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    remarks = [f"{_name(each, home)} {each.state}: {each.reason}" for each in statuses if each.reason]
    return [*lines, *([""] if remarks else []), *remarks]


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
    return (
        _name(status, home),
        status.state,
        _steps(status),
        *(cell for _, cell in _measures(status)),
        _checkpoint(status),
        _evaluation(status.evaluations[0]) if status.evaluations else NOTHING,
        _count(status.skipped_steps),
    )


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
