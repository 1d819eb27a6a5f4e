"""The summary on top of a report."""

import time
from collections.abc import Iterator

from gpt2dist.evaluation.measures import LOSS
from gpt2dist.report.contents import Contents
from gpt2dist.report.history import SKIPPED, TOKENS
from gpt2dist.status import facts
from gpt2dist.status.status import Status, duration


def summary(run: Contents) -> Iterator[tuple[str, str]]:
    """Yield names and values; what is unknown is omitted."""
    last, status = run.history.last, run.status
    reason = f": {status.reason}" if status.reason else ""
    known = facts.parameters(run.path)
    yield "state", status.state + reason
    yield "parameters", "" if known is None else f"{known:,}"
    yield "steps", _of(status.step, status.total_steps)
    yield "tokens", f"{last[TOKENS]:,.0f}" if TOKENS in last else ""
    yield "epochs", ", ".join(_epochs(last))
    yield "hardware", facts.hardware(run.environment)
    yield from _times(run)
    yield "command", facts.command(run.environment)
    yield "training loss", _loss(status)
    yield "newest checkpoint", f"step {status.checkpoint.step:,}" if status.checkpoint else ""
    yield "best checkpoint", f"step {status.best.described()}" if status.best else ""
    best = facts.best_evaluations(run.evaluations, LOSS.key)
    yield "best evaluation", "\n".join(f"{each.name} at step {each.step:,}: {each.described()}" for each in best)
    yield "skipped steps", f"{last[SKIPPED]:,.0f}" if SKIPPED in last else ""
    yield "slowest ranks", "\n".join(each.described() for each in status.rank_times)


def _of(step: int | None, total: int | None) -> str:
    if step is None:
        return ""
    return f"{step:,} of {total:,} ({int(100 * step / total)} %)" if total else f"{step:,}"


def _loss(status: Status) -> str:
    if status.loss is None:
        return ""
    return f"{status.loss:.4f}" + (f", perplexity {status.perplexity:,.2f}" if status.perplexity else "")


def _epochs(last: dict[str, float]) -> Iterator[str]:
    """Yield the passes over the training set, or over each of several."""
    for tag, value in sorted(last.items()):
        if tag == "train/epoch" or tag.startswith("train/epoch/"):
            name = tag.removeprefix("train/epoch").removeprefix("/")
            yield f"{value:,.2f}{f' of {name}' if name else ''}"


def _times(run: Contents) -> Iterator[tuple[str, str]]:
    """Yield when the run began and ended, and the time between, with the pauses between its starts."""
    starts = [each.time for each in run.status.starts if each.time is not None]
    lines = run.history.times
    begin = min([*starts, *(lines[:1] if lines else ())], default=None)
    end = lines[1] if lines else None
    running = run.status.state in ("running", "stale")
    yield "start", "" if begin is None else _moment(begin)
    yield "last log line" if running else "end", "" if end is None else _moment(end)
    count = run.status.start_count
    pauses = f", in {count:,} starts, with the pauses between them" if count > 1 else ""
    yield "wall time", "" if begin is None or end is None else duration(max(0.0, end - begin)) + pauses


def _moment(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # a damaged line may have any number
        return ""
