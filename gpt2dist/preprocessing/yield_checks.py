"""Checks of what the tasks of a job yielded: damage, empty files, and documents to train on."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from gpt2dist.corpus import Piece
from gpt2dist.corpus.damage import MOST_EXAMPLES, Example, too_many_rejected, too_many_replaced
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.assembly import load_results
from gpt2dist.preprocessing.atomic_output import MARKER
from gpt2dist.preprocessing.tasks import (
    PreprocessingJob,
    Task,
    load_rejections,
    load_replaced_examples,
    load_result,
    task_folder,
)
from gpt2dist.preprocessing.worker import place

MOST_EMPTY = 0.1
"""Fraction of the documents of a file that may be empty without a warning."""

OnMessage = Callable[[str], None]


class _NothingUsableError(UserError):
    """No document of the corpus could be read, or most of them are damaged."""


@contextmanager
def remove_partial_if_useless(job: PreprocessingJob) -> Iterator[None]:
    """Delete the build directory of a failed job if nothing in it is of use, so that a corrected job runs."""
    try:
        yield
    except UserError as error:
        if isinstance(error, _NothingUsableError) or not any(job.build.glob(f"tasks/*/{MARKER}")):
            shutil.rmtree(job.build)
        raise


def check_yield(job: PreprocessingJob, tasks: list[Task]) -> None:
    """Check that not too many documents were rejected and that the training split has documents."""
    results = load_results(job, tasks)
    rejected = sum(result.left_out["rejected"] for result in results)
    seen = sum(result.seen for result in results)
    if rejected > job.max_bad_fraction * seen:
        raise too_many_rejected_error(job, tasks, rejected, seen)
    replaced = sum(result.replaced for result in results)
    if replaced > job.max_replaced_fraction * sum(result.characters for result in results):
        raise too_many_replaced_error(job, tasks)
    if not any(record.split == "train" for result in results for record in result.shards):
        documents = sum(result.documents for result in results)
        way_out = (
            f"all {documents} fell into val: lower --val-fraction {job.val_fraction}"
            if documents
            else "the corpus has only empty files or lines, or the filters leave none: check the inputs"
        )
        raise UserError(f"no documents to train on; {way_out} (and rm -r {job.build})")


def warn_of_empty(job: PreprocessingJob, tasks: list[Task], on_warning: OnMessage) -> None:
    """Name the file with most empty documents if they are more than MOST_EMPTY of it, as in damaged files."""
    rows, empty = Counter[str](), Counter[str]()
    for task, result in zip(tasks, load_results(job, tasks), strict=True):
        for piece, lines, count in zip(task.pieces, result.lines, result.empty, strict=False):
            rows[piece.path] += lines
            empty[piece.path] += count
    found = [path for path, count in empty.most_common() if count > MOST_EMPTY * rows[path]]
    if found:
        others = f", and so is a large part of {len(found) - 1:,} other file(s)" if len(found) > 1 else ""
        on_warning(
            f"{found[0]}: {empty[found[0]]:,} of its {rows[found[0]]:,} documents are empty and were left out"
            f"{others}. If that is not what you expect, the file is damaged, or --text-field names another field "
            "than that of the text"
        )


def warn_of_rejected_bytes(job: PreprocessingJob, tasks: list[Task], on_warning: OnMessage) -> None:
    """Warn if few documents were rejected, but with a large share of the bytes."""
    rejected = sum(item["bytes"] for _, item in _rejections(job, tasks))
    total = sum(task.size for task in tasks)
    if total and rejected > job.max_bad_fraction * total:
        on_warning(
            f"the rejected lines or rows hold {rejected / total:.1%} of the bytes of the corpus; "
            f"see {job.output / 'rejected.jsonl'}"
        )


def too_many_rejected_error(job: PreprocessingJob, tasks: list[Task], rejected: int, seen: int) -> UserError:
    """Return the error that too many documents cannot be read, with the first of them."""
    examples = [
        Example(piece, item["offset"], _describe(piece, item))
        for piece, item in islice(_rejections(job, tasks), MOST_EXAMPLES)
    ]
    problem = too_many_rejected(rejected, seen, job.max_bad_fraction, examples, job.reading.encoding)
    if rejected == seen:
        return _NothingUsableError(f"{problem}Name the field of the text with --text-field, or check the inputs")
    return UserError(
        f"{problem}Leave them out with a larger --max-bad-fraction, which resumes from here; or fix them, "
        f"remove the unfinished work (rm -r {job.build}) and run the command again"
    )


def _rejections(job: PreprocessingJob, tasks: list[Task]) -> Iterator[tuple[Piece, dict[str, Any]]]:
    """Yield the piece and the record of each document rejected in finished tasks."""
    for task in tasks:
        if load_result(task_folder(job, task)):
            for item in load_rejections(job, task):
                yield task.pieces[item["piece"] - task.first_piece], item


def _describe(piece: Piece, rejection: dict[str, Any]) -> str:
    lines = f" ({rejection['lines']:,} lines)" if rejection["lines"] > 1 else ""
    return f"{place(piece, rejection['line'], rejection['offset'])}: {rejection['reason']}{lines}"


def too_many_replaced_error(job: PreprocessingJob, tasks: list[Task]) -> UserError:
    """Return the error that too many characters would become U+FFFD, with the first documents that have some."""
    results = [result for task in tasks if (result := load_result(task_folder(job, task)))]
    replaced = sum(result.replaced for result in results)
    characters = sum(result.characters for result in results)
    examples = list(islice(_replacements(job, tasks), MOST_EXAMPLES))
    problem = too_many_replaced(replaced, characters, job.max_replaced_fraction, examples, job.reading.encoding)
    if 2 * sum(result.repaired for result in results) > sum(result.seen for result in results):
        return _NothingUsableError(f"{problem}To keep the text with its U+FFFD, raise --max-replaced-fraction")
    return UserError(
        f"{problem}To keep the text with its U+FFFD, raise --max-replaced-fraction, which resumes from here. For "
        f"any other change, remove the unfinished work (rm -r {job.build}) and run the command again"
    )


def _replacements(job: PreprocessingJob, tasks: list[Task]) -> Iterator[Example]:
    """Yield documents with replaced characters in finished tasks, with an excerpt: the first of each task."""
    for task in tasks:
        for item in load_replaced_examples(job, task):
            piece = task.pieces[item.piece - task.first_piece]
            line = f"{place(piece, item.line, item.offset)}: {item.excerpt!r}"
            yield Example(piece, item.offset, line)


def warn_of_replacements(job: PreprocessingJob, tasks: list[Task], on_warning: OnMessage) -> None:
    """Warn of characters that became U+FFFD, with the place of the first."""
    results = load_results(job, tasks)
    replaced, documents = (sum(getattr(result, name) for result in results) for name in ("replaced", "repaired"))
    if documents:
        example = next(_replacements(job, tasks))
        on_warning(
            f"{replaced:,} characters that are not valid became U+FFFD, in {documents:,} documents. The first: "
            f"{example.line}"
        )
