"""Check the results of a job's tasks: the damage, and whether there are documents to train on."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from gpt2dist.corpus.damage import MOST_EXAMPLES, too_many_rejected, too_many_replaced
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.assembly import load_results
from gpt2dist.preprocessing.atomic_output import MARKER
from gpt2dist.preprocessing.job import PreprocessingJob
from gpt2dist.preprocessing.outcome import no_training_documents, reasons, rejections, replacements
from gpt2dist.preprocessing.tasks import Task, TaskTotals, load_result, task_folder


class _NothingUsableError(UserError):
    """No document of the corpus could be read or was kept, or most of them are damaged."""


@contextmanager
def remove_partial_if_useless(job: PreprocessingJob) -> Iterator[None]:
    """Delete the build directory of a failed job if nothing in it is usable, so that a corrected job runs."""
    try:
        yield
    except UserError as error:
        if isinstance(error, _NothingUsableError) or not any(job.build.glob(f"tasks/*/{MARKER}")):
            shutil.rmtree(job.build)
        raise


def check_yield(job: PreprocessingJob, tasks: list[Task]) -> None:
    """Check that not too much was damaged and that the training split has documents.

    Raises:
        UserError: Too many documents were rejected, too many characters were replaced, or the split is empty.
    """
    totals = TaskTotals(load_results(job, tasks))
    rejected = totals.left_out["rejected"]
    if rejected > job.max_bad_fraction * totals.seen:
        raise too_many_rejected_error(job, tasks, rejected, totals.seen)
    if totals.replaced > job.max_replaced_fraction * totals.characters:
        raise too_many_replaced_error(job, tasks)
    if "train" not in totals.splits:
        raise _NothingUsableError(f"no documents to train on: {no_training_documents(job, totals)}")


def too_many_rejected_error(job: PreprocessingJob, tasks: list[Task], rejected: int, seen: int) -> UserError:
    """Return the error that too many documents cannot be read, with the first of them."""
    examples = list(islice(rejections(job, tasks), MOST_EXAMPLES))
    problem = too_many_rejected(rejected, seen, job.max_bad_fraction, examples, job.reading.encoding)
    if rejected == seen:
        return _NothingUsableError(
            f"{problem}All were rejected:{reasons(job, tasks)}\n"
            "Name the field of the text with --text-field, or check the inputs"
        )
    return UserError(
        f"{problem}Skip them with a larger --max-bad-fraction, which resumes from here; or fix them, "
        f"remove the unfinished work (rm -r {job.build}) and run the command again"
    )


def too_many_replaced_error(job: PreprocessingJob, tasks: list[Task]) -> UserError:
    """Return the error that too many characters would become U+FFFD, with the first documents that have some."""
    totals = TaskTotals(result for task in tasks if (result := load_result(task_folder(job, task))))
    examples = list(islice(replacements(job, tasks), MOST_EXAMPLES))
    problem = too_many_replaced(
        totals.replaced, totals.characters, job.max_replaced_fraction, examples, job.reading.encoding
    )
    if 2 * totals.repaired > totals.seen:
        return _NothingUsableError(f"{problem}To keep the text with its U+FFFD, raise --max-replaced-fraction")
    return UserError(
        f"{problem}To keep the text with its U+FFFD, raise --max-replaced-fraction, which resumes from here. For "
        f"any other change, remove the unfinished work (rm -r {job.build}) and run the command again"
    )
