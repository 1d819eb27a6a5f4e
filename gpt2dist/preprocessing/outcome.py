"""Explain the outcome of a job: why documents were rejected or skipped, and which options had no effect."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gpt2dist.corpus.damage import Example, without_text
from gpt2dist.corpus.documents import Piece
from gpt2dist.corpus.formats import reader
from gpt2dist.dataset.manifest import FILTERED, RECORD, Manifest
from gpt2dist.preprocessing.assembly import load_results
from gpt2dist.preprocessing.tasks import (
    PreprocessingJob,
    Task,
    TaskResult,
    load_rejections,
    load_replaced_examples,
    load_result,
    task_folder,
)
from gpt2dist.preprocessing.worker import place

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
            for item in load_rejections(job, task):
                yield task.pieces[item["piece"] - task.first_piece], item


def replacements(job: PreprocessingJob, tasks: list[Task]) -> Iterator[Example]:
    """Yield documents with replaced characters in finished tasks, with an excerpt: the first of each task."""
    for task in tasks:
        for item in load_replaced_examples(job, task):
            piece = task.pieces[item.piece - task.first_piece]
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


def no_training_documents(job: PreprocessingJob, results: Sequence[TaskResult]) -> str:
    """Explain why the split "train" is empty, with the number of documents by reason."""
    documents = sum(result.documents for result in results)
    if documents:
        return f"all {documents:,} fell into val; lower --val-fraction {job.val_fraction}"
    seen = sum(result.seen for result in results)
    records = _records(results)
    if not seen and records:
        return f"the corpus has none, only {without_text(records)}"
    if not seen:
        return "the corpus has none, only empty files or blank lines; check the inputs"
    counts = Counter[str]()
    for result in results:
        counts.update(result.left_out)
    listed = ", ".join(
        f"{count:,} {_why(job, reason)}"
        for reason, count in counts.items()
        if count and not reason.startswith(RECORD)
    )
    return f"of {seen:,} documents, {listed}; change these options, or check the inputs"


def _why(job: PreprocessingJob, reason: str) -> str:
    if reason.startswith(FILTERED):
        return f"skipped by --filter ({reason.removeprefix(FILTERED)})"
    return _WHY[reason].format(job=job)


def _records(results: Sequence[TaskResult]) -> Counter[str]:
    """Return the number of records that hold no text, by kind."""
    found = Counter[str]()
    for result in results:
        found.update(result.records)
    return found


def warn_of_records(job: PreprocessingJob, tasks: list[Task], on_warning: Callable[[str], None]) -> None:
    """Warn about records that hold no text, by kind."""
    if records := _records(load_results(job, tasks)):
        on_warning(f"skipped {without_text(records)}")


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


def warn_of_empty(job: PreprocessingJob, tasks: list[Task], on_warning: Callable[[str], None]) -> None:
    """Warn about the file with the most empty documents, if they are more than MOST_EMPTY of it."""
    rows, empty = Counter[str](), Counter[str]()
    for task, result in zip(tasks, load_results(job, tasks), strict=True):
        for piece, lines, count in zip(task.pieces, result.lines, result.empty, strict=False):
            rows[piece.path] += lines
            empty[piece.path] += count
    found = [path for path, count in empty.most_common() if count > MOST_EMPTY * rows[path]]
    if found:
        others = f", and so is a large part of {len(found) - 1:,} other file(s)" if len(found) > 1 else ""
        on_warning(
            f"{found[0]}: {empty[found[0]]:,} of its {rows[found[0]]:,} documents are empty and were skipped"
            f"{others}. If that is not what you expect, the file is damaged, or --text-field names the wrong "
            "field"
        )


def warn_of_rejected_bytes(job: PreprocessingJob, tasks: list[Task], on_warning: Callable[[str], None]) -> None:
    """Warn if few documents were rejected, but with a large share of the bytes."""
    rejected = sum(item["bytes"] for _, item in _rejected(job, tasks))
    total = sum(task.size for task in tasks)
    if total and rejected > job.max_bad_fraction * total:
        on_warning(
            f"the rejected lines or rows hold {rejected / total:.1%} of the bytes of the corpus; "
            f"see {job.output / 'rejected.jsonl'}"
        )


def warn_of_replacements(job: PreprocessingJob, tasks: list[Task], on_warning: Callable[[str], None]) -> None:
    """Warn about characters that were replaced by U+FFFD, with an example."""
    results = load_results(job, tasks)
    replaced, documents = (sum(getattr(result, name) for result in results) for name in ("replaced", "repaired"))
    if documents:
        example = next(replacements(job, tasks))
        on_warning(
            f"{replaced:,} characters that are not valid became U+FFFD, in {documents:,} documents. The first: "
            f"{example.line}"
        )


def warn_of_separator(job: PreprocessingJob, tasks: Sequence[Task], on_warning: Callable[[str], None]) -> None:
    """Warn if the document separator never occurs between two documents."""
    separator = job.reading.document_separator
    if separator is None:
        return
    texts = [
        lines
        for task, result in zip(tasks, load_results(job, list(tasks)), strict=True)
        for piece, lines in zip(task.pieces, result.lines, strict=True)
        if reader(piece.format).separable
    ]
    if not texts:
        on_warning(
            f"--document-separator {separator!r} has no effect: it cuts text files, and the corpus has none"
        )
    elif max(texts) <= 1:
        on_warning(
            f"--document-separator {separator!r} never occurs between two documents: {len(texts):,} text file(s) "
            r"are not split. (Lines of files from Windows end in '\r\n'.)"
        )
