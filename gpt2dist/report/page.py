"""Report of a run as one self-contained HTML page, without external scripts, fonts or images."""

import html
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt2dist import json_files
from gpt2dist.evaluation.measures import LOSS, OURS, TEXT, MeasureInfo
from gpt2dist.report.svg import Curve, chart
from gpt2dist.run import metrics_file
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.starts import Start
from gpt2dist.status import run_files, table
from gpt2dist.status.evaluations import Evaluation, all_evaluations
from gpt2dist.status.lineage import lineage
from gpt2dist.status.run_files import number
from gpt2dist.status.status import TRAINED, read_status

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 800px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse } td, th { padding: 2px 14px 2px 0; text-align: left; vertical-align: top }
th { font-weight: 600 } code, pre { font: 13px/1.4 ui-monospace, monospace } td { overflow-wrap: anywhere }
pre { background: #f6f6f6; padding: 10px; white-space: pre-wrap; overflow-wrap: anywhere }
svg { width: 100%; margin: 6px 0 } .grid { stroke: #e4e4e4 } .label { font: 11px system-ui, sans-serif }
.title { font: 600 13px system-ui, sans-serif }
"""

SHOWN_BYTES = 2**20
"""Size up to which a file is shown."""


def report(run: Path) -> str:
    """Return the HTML page of a run."""
    status = read_status(run, all_starts=True)
    lines = metrics_file.read(RunDirectory(run).metrics)
    results = all_evaluations(run)
    name = str(run_files.read_settings(run).get("run", {}).get("name") or run.resolve().name)
    sections = [
        _section("State", _table(table.in_full(status))),
        _section("Curves", "".join(_charts(lines, results))),
        _section("Samples", "".join(_samples(lines))),
        _section("Lineage", _lineage(run, status.evaluations)),
        _section("Starts", _table(_starts(status.starts))),
        _section("Configuration", _preformatted(RunDirectory(run).config)),
        _section("Environment", _preformatted(RunDirectory(run).environment)),
    ]
    title, when = html.escape(name), time.strftime("%Y-%m-%d %H:%M %z")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{title}</h1><p>As it stood on {when}.</p>\n"
        f"{''.join(sections)}</body></html>\n"
    )


def _charts(lines: list[dict[str, Any]], results: list[Evaluation]) -> Iterable[str]:
    """Yield the charts; one for which the run has no data is an empty string."""

    def trained(tag: str) -> list[tuple[float, float]]:
        known = ((each.get("step"), number(each.get(tag))) for each in lines)
        return [(step, value) for step, value in known if isinstance(step, int) and value is not None]

    for measure in _measures(results):
        training = [Curve("training", trained(TRAINED))] if measure.key == LOSS.key else []
        title = f"{measure.heading} ({measure.better} is better)"
        yield chart(title, [*training, *_evaluated(measure.key, results)])
    yield chart("Tokens per second", [Curve("", trained("throughput/tokens_per_second"))])
    yield chart("Gradient norm", [Curve("", trained("train/grad_norm"))])
    yield chart("Learning rate", [Curve("", trained("train/lr"))])


def _measures(results: list[Evaluation]) -> Iterable[MeasureInfo]:
    """Return the measures to chart: ours, then others that a result has."""
    others = {each.key: each for result in results for each in result.measures if each not in OURS}
    return [each for each in (*TEXT, *(others[key] for key in sorted(others))) if "report" in each.places]


def _evaluated(key: str, results: list[Evaluation]) -> list[Curve]:
    """Return the curve of a measure for each name of an evaluation."""
    points: dict[str, list[tuple[float, float]]] = {}
    for each in results:
        value = each.values.get(key)
        points.setdefault(each.name, []).extend([(each.step, value)] if value is not None else [])
    return [Curve(name, points[name], dots=True) for name in sorted(points)]


def _samples(lines: list[dict[str, Any]]) -> Iterable[str]:
    """Yield the last sample of each prompt."""
    newest = {
        tag: (line.get("step"), text)
        for line in lines
        for tag, text in line.items()
        if tag.startswith("samples/") and isinstance(text, str)
    }
    for tag in sorted(newest):
        step, text = newest[tag]
        yield f"<p>at step {html.escape(str(step))}</p><pre>{html.escape(text)}</pre>"


def _lineage(run: Path, evaluations: list[Evaluation]) -> str:
    return _table(
        (what, f"{digest[:12]}  {text}" if digest else text) for what, digest, text in lineage(run, evaluations)
    )


def _starts(starts: Iterable[Start]) -> Iterable[tuple[str, str]]:
    """Yield each start, and below it what it changed."""
    for start in starts:
        yield f"{start.number:03d}", table.start_line(start)
        for change in start.changes:
            yield "", str(change)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>" if cells else ""


def _preformatted(path: Path) -> str:
    try:
        text = json_files.read_bytes(path, SHOWN_BYTES).decode("utf-8", errors="replace")
        return f"<pre>{html.escape(text)}</pre>"
    except (OSError, ValueError):
        return ""


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}\n" if content else ""
