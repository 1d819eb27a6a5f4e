"""Explain the outcome of a job: why documents were rejected or skipped, and which options had no effect."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

from gpt2dist.corpus.damage import Example, without_text
from gpt2dist.corpus.documents import Piece
from gpt2dist.corpus.formats import reader
from gpt2dist.dataset.manifest import FILTERED, RECORD, Manifest
from gpt2dist.preprocessing.assembly import load_results
from gpt2dist.preprocessing.job import PreprocessingJob
from gpt2dist.preprocessing.pieces import matched
from gpt2dist.preprocessing.selection import place
from gpt2dist.preprocessing.tasks import (
    Task,
    TaskTotals,
    load_rejections,
    load_replaced_examples,
    load_result,
    task_folder,
)

MOST_REASONS = 8
"""Reasons that a message lists."""
MOST_EMPTY = 0.1
"""Fraction of the documents of a file that may be empty without a warning."""

_WHY = {
    "rejected": "rejected as unreadable",
    "empty": "empty",
    "too_short": "shorter than --min-chars {job.min_chars}",
    "too_long": "longer than --max-chars {job.max_chars}",
}


def rejections(job: PreprocessingJob, tasks: Sequence[Task]) -> Iterator[Example]:
    """Yield each document rejected in finished tasks, with the reason."""
    for piece, item in _rejected(job, tasks):
        lines = f" ({item['lines']:,} lines)" if item["lines"] > 1 else ""
        line = f"{place(piece, item['line'], item['offset'])}: {item['reason']}{lines}"
        yield Example(piece, item["offset"], line)


def _rejected(job: PreprocessingJob, tasks: Sequence[Task]) -> Iterator[tuple[Piece, dict[str, Any]]]:
    """Yield the lines of rejected.jsonl of finished tasks, with their pieces."""
    for task in tasks:
        if load_result(task_folder(job, task)):
            items = load_rejections(job, task)
            yield from matched(items, itemgetter("piece"), task.pieces, task.first_piece)


def replacements(job: PreprocessingJob, tasks: Sequence[Task]) -> Iterator[Example]:
    """Yield documents with replaced characters in finished tasks, with an excerpt: the first of each task."""
    for task in tasks:
        items = load_replaced_examples(job, task)
        for piece, item in matched(items, attrgetter("piece"), task.pieces, task.first_piece):
            line = f"{place(piece, item.line, item.offset)}: {item.excerpt!r}"
            yield Example(piece, item.offset, line)


def reasons(job: PreprocessingJob, tasks: Sequence[Task]) -> str:
    """Return a line for each reason why documents of finished tasks were rejected: a number and an example."""
    found: dict[str, tuple[int, str]] = {}
    for piece, item in _rejected(job, tasks):
        kind = _kind(item["reason"])
        if kind not in found and len(found) == MOST_REASONS:
            kind = ""
        example = f"{item['reason']} (first at {place(piece, item['line'], item['offset'])})"
        count, first = found.get(kind, (0, example if kind else "for other reasons"))
        found[kind] = count + item["lines"], first
    return "".join(f"\n  {count:,}: {example}" for count, example in found.values())


def _kind(reason: str) -> str:
    """Return a reason without its numbers, quoted names and details, so that similar ones count together."""
    return re.sub(r"'[^']*'|\d[\d,.]*", "", re.split(r": |; | \(", reason)[0])


def no_training_documents(job: PreprocessingJob, totals: TaskTotals) -> str:
    """Explain why the split "train" is empty, with the number of documents by reason."""
    if totals.documents:
        return f"all {totals.documents:,} fell into val; lower --val-fraction {job.val_fraction}"
    if not totals.seen and totals.records:
        return f"the corpus has none, only {without_text(totals.records)}"
    if not totals.seen:
        return "the corpus has none, only empty files or blank lines; check the inputs"
    listed = ", ".join(
        f"{count:,} {_why(job, reason)}"
        for reason, count in totals.left_out.items()
        if count and not reason.startswith(RECORD)
    )
    return f"of {totals.seen:,} documents, {listed}; change these options, or check the inputs"


def _why(job: PreprocessingJob, reason: str) -> str:
    if reason.startswith(FILTERED):
        return f"skipped by --filter ({reason.removeprefix(FILTERED)})"
    return _WHY[reason].format(job=job)


def warn_of_empty_split(manifest: Manifest, on_warning: Callable[[str], None]) -> None:
    """Warn if documents should have been set aside for validation, but none were."""
    fraction = manifest.options.get("val_fraction")
    if fraction and "val" not in manifest.splits:
        documents = manifest.totals("train").documents
        on_warning(
            f"--val-fraction {fraction} set no document aside, so there is no split val: documents are chosen "
            f"whole, by their content, and the corpus has {documents:,}. Raise the fraction, cut the text files "
            "into more documents (--document-separator), or preprocess validation text separately"
        )


def warn_of_outcome(job: PreprocessingJob, tasks: Sequence[Task], on_warning: Callable[[str], None]) -> None:
    """Warn about what the finished tasks found, and about options without an effect."""

    def warn(text: str) -> None:
        if text:
            on_warning(text)

    totals = TaskTotals(load_results(job, tasks))
    if job.reading.document_separator is not None:
        warn(_separator_warning(job, tasks))
    if totals.left_out["empty"]:
        warn(_empty_warning(job, tasks))
    if totals.repaired:
        example = next(replacements(job, tasks))
        on_warning(
            f"{totals.replaced:,} characters that are not valid became U+FFFD, in {totals.repaired:,} documents. "
            f"The first: {example.line}"
        )
    if totals.left_out["rejected"]:
        warn(_rejected_bytes_warning(job, tasks))
    if totals.records:
        on_warning(f"skipped {without_text(totals.records)}")


def _empty_warning(job: PreprocessingJob, tasks: Sequence[Task]) -> str:
    """Return a warning about the file with the most empty documents of those in which they exceed MOST_EMPTY."""
    worst, files = ("", 0, 0), 0
    for path, pieces in groupby(_counted_pieces(job, tasks), key=lambda each: each[0].path):
        rows = empty = 0
        for _, lines, count in pieces:
            rows += lines
            empty += count
        if empty > MOST_EMPTY * rows:
            files += 1
            worst = max(worst, (path, rows, empty), key=itemgetter(2))
    if not files:
        return ""
    path, rows, empty = worst
    others = f", and so is a large part of {files - 1:,} other file(s)" if files > 1 else ""
    return (
        f"{path}: {empty:,} of its {rows:,} documents are empty and were skipped{others}. If that is not what "
        "you expect, the file is damaged, or --text-field names the wrong field"
    )


def _counted_pieces(job: PreprocessingJob, tasks: Sequence[Task]) -> Iterator[tuple[Piece, int, int]]:
    """Yield each piece with its numbers of lines and empty documents. The pieces of a file follow each other."""
    for task, result in zip(tasks, load_results(job, tasks), strict=True):
        yield from zip(task.pieces, result.lines, result.empty, strict=False)  # older results count none


def _rejected_bytes_warning(job: PreprocessingJob, tasks: Sequence[Task]) -> str:
    """Return a warning if few documents were rejected, but with a large share of the bytes."""
    rejected = sum(item["bytes"] for task in tasks for item in load_rejections(job, task))
    total = sum(task.size for task in tasks)
    if not total or rejected <= job.max_bad_fraction * total:
        return ""
    return (
        f"the rejected lines or rows hold {rejected / total:.1%} of the bytes of the corpus; "
        f"see {job.output / 'rejected.jsonl'}"
    )


def _separator_warning(job: PreprocessingJob, tasks: Sequence[Task]) -> str:
    """Return a warning if the document separator never occurs between two documents."""
    texts = longest = 0
    for task, result in zip(tasks, load_results(job, tasks), strict=True):
        for piece, lines in zip(task.pieces, result.lines, strict=True):
            if reader(piece.format).separable:
                texts, longest = texts + 1, max(longest, lines)
    separator = job.reading.document_separator
    if not texts:
        return f"--document-separator {separator!r} has no effect: it cuts text files, and the corpus has none"
    if longest <= 1:
        return (
            f"--document-separator {separator!r} never occurs between two documents: {texts:,} text file(s) "
            r"are not split. (Lines of files from Windows end in '\r\n'.)"
        )
    return ""
