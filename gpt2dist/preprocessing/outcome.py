"""Explain the outcome of a job: why documents were rejected or skipped, and which options had no effect."""

import json
import re
from collections.abc import Callable, Sequence

from gpt2dist.dataset.manifest import Manifest
from gpt2dist.preprocessing.assembly import load_results
from gpt2dist.preprocessing.tasks import PreprocessingJob, Task, TaskResult, load_result, task_folder
from gpt2dist.preprocessing.worker import place

MOST_REASONS = 8
"""Reasons that a message lists."""

_WHY = {
    "rejected": "rejected as unreadable",
    "empty": "empty",
    "too_short": "shorter than --min-chars {job.min_chars}",
    "too_long": "longer than --max-chars {job.max_chars}",
}


def reasons(job: PreprocessingJob, tasks: Sequence[Task]) -> str:
    """Return a line for each reason why documents of finished tasks were rejected: a number and an example."""
    found: dict[str, tuple[int, str]] = {}
    for task in tasks:
        if load_result(task_folder(job, task)) is None:
            continue
        with open(task_folder(job, task) / "rejected.jsonl", encoding="utf-8") as file:
            for item in map(json.loads, file):
                kind = _kind(item["reason"])
                if kind not in found and len(found) == MOST_REASONS:
                    kind = ""
                piece = task.pieces[item["piece"] - task.first_piece]
                example = f"{item['reason']} (first at {place(piece, item['line'], item['offset'])})"
                count, first = found.get(kind, (0, example if kind else "for other reasons"))
                found[kind] = count + 1, first
    return "".join(f"\n  {count:,}: {example}" for count, example in found.values())


def _kind(reason: str) -> str:
    """Return what reasons of the same kind have in common: no numbers, no quoted names, no details."""
    return re.sub(r"'[^']*'|\d[\d,.]*", "", re.split(r": |; | \(", reason)[0])


def no_training_documents(job: PreprocessingJob, results: Sequence[TaskResult]) -> str:
    """Explain why the split "train" is empty, with the number of documents by reason."""
    documents = sum(result.documents for result in results)
    if documents:
        return f"all {documents:,} fell into val; lower --val-fraction {job.val_fraction}"
    seen = sum(result.seen for result in results)
    if not seen:
        return "the corpus has none, only empty files or blank lines; check the inputs"
    counts = {reason: sum(result.left_out[reason] for result in results) for reason in _WHY}
    listed = ", ".join(f"{count:,} {_WHY[reason].format(job=job)}" for reason, count in counts.items() if count)
    return f"of {seen:,} documents, {listed}; change these options, or check the inputs"


def warn_of_empty_split(manifest: Manifest, on_warning: Callable[[str], None]) -> None:
    """Warn if documents should have been set aside for validation, and none was."""
    fraction = manifest.options.get("val_fraction")
    if fraction and "val" not in manifest.splits:
        documents = manifest.totals("train").documents
        on_warning(
            f"--val-fraction {fraction} set no document aside, so there is no split val: documents are chosen "
            f"whole, by their content, and the corpus has {documents:,}. Raise the fraction, cut the text files "
            "into more documents (--document-separator), or preprocess a text to validate on by itself"
        )


def warn_of_separator(job: PreprocessingJob, tasks: Sequence[Task], on_warning: Callable[[str], None]) -> None:
    """Warn if the document separator stands in no text file between two documents."""
    separator = job.reading.document_separator
    if separator is None:
        return
    texts = [
        lines
        for task, result in zip(tasks, load_results(job, list(tasks)), strict=True)
        for piece, lines in zip(task.pieces, result.lines, strict=True)
        if piece.format == "text"
    ]
    if not texts:
        on_warning(
            f"--document-separator {separator!r} has no effect: it cuts text files, and the corpus has none"
        )
    elif max(texts) <= 1:
        on_warning(
            f"--document-separator {separator!r} never occurs between two documents: {len(texts):,} text file(s) "
            r"stay whole. (Lines of files from Windows end in '\r\n'.)"
        )
