"""Report of one or several runs as one HTML page, which needs no other file and no network."""

import html
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gpt2dist import json_files
from gpt2dist.report.assets import SCRIPT, style
from gpt2dist.report.contents import Contents, read_contents
from gpt2dist.report.curves import Palette, charts
from gpt2dist.report.decimation import MOST_PARTS
from gpt2dist.report.summary import summary
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.starts import Start
from gpt2dist.status import table
from gpt2dist.status.lineage import lineage

LEAST_PARTS = 50
"""Half of the parts of a series on a page of many runs."""
SHOWN_BYTES = 2**20
"""Size up to which a file is shown."""


def report(runs: Sequence[Path]) -> str:
    """Return the HTML page of one or several runs.

    Raises:
        UserError: The metrics of a run cannot be read.
    """
    most = max(LEAST_PARTS, MOST_PARTS // len(runs))  # the page stays small enough to mail
    contents = [read_contents(run, most) for run in runs]
    names = _names(contents)
    palette = Palette(contents, names)
    figures = "".join(chart.html(f"chart{number}") for number, chart in enumerate(charts(contents, palette)))
    sections = [
        _section("Summary", _summary(contents, names)),
        _section("Curves", f'<div class="charts">{figures}</div>' if figures else ""),
        *(
            _of_one_run(run, f": {name}" if len(names) > 1 else "")
            for run, name in zip(contents, names, strict=True)
        ),
    ]
    title, when = html.escape(", ".join(names)), time.strftime("%Y-%m-%d %H:%M %z")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style(len(palette))}</style></head>\n"
        f'<body><h1>{title}</h1><p class="note">As it stood on {when}.</p>\n'
        f"{''.join(sections)}<script>{SCRIPT}</script></body></html>\n"
    )


def _of_one_run(run: Contents, of: str) -> str:
    """Return the sections that each run has for itself."""
    sections = {
        "Samples": "".join(_samples(run)),
        "Lineage": _table(
            (what, f"{digest[:12]}  {text}" if digest else text)
            for what, digest, text in lineage(run.path, run.status.evaluations)
        ),
        "Starts": _table(_starts(run.status.starts)),
        "Configuration": _folded("config.yaml, without what is not set", _configuration(run)),
        "Environment": _folded("Versions, machine, code and datasets", _text(RunDirectory(run.path).environment)),
    }
    return "".join(_section(title + of, content) for title, content in sections.items())


def _names(runs: Sequence[Contents]) -> list[str]:
    """Return a name for each run: with its directory where two have the same."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({run.path})" for name, run in zip(names, runs, strict=True)
    ]


def _summary(runs: Sequence[Contents], names: Sequence[str]) -> str:
    """Return a table with a row for each fact and a column for each run."""
    columns = [dict(summary(run)) for run in runs]
    facts = dict.fromkeys(fact for column in columns for fact in column)
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in names) if len(runs) > 1 else ""
    rows = [f"<tr><th></th>{heads}</tr>"] if heads else []
    for fact in facts:
        values = [column.get(fact, "") for column in columns]
        if any(values):
            cells = "".join(f"<td>{html.escape(value).replace(chr(10), '<br>')}</td>" for value in values)
            rows.append(f"<tr><th>{fact}</th>{cells}</tr>")
    several = ' class="several"' if heads else ""
    return f'<div class="wide"><table{several}>{"".join(rows)}</table></div>'


def _samples(run: Contents) -> Iterable[str]:
    """Yield the newest sample of each prompt, and below it the earlier ones."""
    for number, samples in enumerate(run.history.samples.values(), 1):
        newest, *earlier = [
            f"<p>at step {step:,}</p><pre>{html.escape(text)}</pre>" for step, text in samples.newest_first()
        ]
        older = f"{len(earlier)} earlier, of {samples.count:,} in all"
        yield f"<h3>Prompt {number}</h3>{newest}{_details(older, ''.join(earlier)) if earlier else ''}"


def _starts(starts: Iterable[Start]) -> Iterable[tuple[str, str]]:
    """Yield each start, and below it what it changed."""
    for start in starts:
        yield f"{start.number:03d}", table.start_line(start)
        for change in start.changes:
            yield "", str(change)


def _configuration(run: Contents) -> str:
    """Return config.yaml without what is not set, or as it is if it cannot be understood."""
    import yaml

    try:
        known = _without_nulls(run.settings)
        return (
            yaml.safe_dump(known, sort_keys=False, allow_unicode=True)
            if known
            else _text(RunDirectory(run.path).config)
        )
    except (RecursionError, yaml.YAMLError):
        return _text(RunDirectory(run.path).config)


def _without_nulls(value: Any) -> Any:
    """Return a value without entries that are null or empty."""
    if isinstance(value, dict):
        pruned = {key: _without_nulls(each) for key, each in value.items()}
        return {key: each for key, each in pruned.items() if each not in (None, {}, [])}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _text(path: Path) -> str:
    try:
        return json_files.read_bytes(path, SHOWN_BYTES).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>" if cells else ""


def _folded(title: str, text: str) -> str:
    return _details(title, f"<pre>{html.escape(text)}</pre>") if text else ""


def _details(title: str, content: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def _section(title: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{content}\n" if content else ""
