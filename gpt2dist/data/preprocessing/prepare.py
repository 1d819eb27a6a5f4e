"""Corpus → dataset directory, in parallel and resumable.

The corpus is cut into tasks by bytes, in a way that depends on the corpus alone. Each task is read, tokenised
and written by one worker, into a folder that gets its name when it is complete. When all are there, the files get
their final names in the order of the tasks. So neither the number of workers nor an interruption changes a byte.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice

import numpy as np

from gpt2dist.data.corpus import Document, LongDocument, Source, discover, read
from gpt2dist.data.encoder import FAST, choose_encoder
from gpt2dist.data.manifest import Manifest
from gpt2dist.data.preprocessing.assembly import assemble, dataset_folder, load_results
from gpt2dist.data.preprocessing.attempts import MARKER, Counts, ProgressFile
from gpt2dist.data.preprocessing.build import Identity, finished, open_build
from gpt2dist.data.preprocessing.duplicates import remove_duplicates
from gpt2dist.data.preprocessing.executors import run_all
from gpt2dist.data.preprocessing.tasks import (
    Job,
    Task,
    is_intact,
    load_result,
    plan_tasks,
    task_folder,
)
from gpt2dist.data.preprocessing.worker import load_normalizer, place, run_task
from gpt2dist.data.shards import token_dtype
from gpt2dist.data.tokenizer import Tokenizer
from gpt2dist.errors import UserError

SAMPLE_PIECES, SAMPLE_BYTES = 32, 1 << 14
"""How many places of the corpus the encoder is proved on, and how much is read at each."""

OnProgress = Callable[[Counts, int], None]
Say = Callable[[str], None]


def prepare(
    job: Job,
    on_progress: OnProgress = lambda counts, total: None,
    say: Say = lambda text: None,
    part: tuple[int, int] | None = None,
    finish: bool = False,
) -> Manifest | None:
    """Makes the dataset directory of a job, or goes on where an interrupted run of it stopped.

    Args:
        job: What to do.
        on_progress: Called now and then with the work done so far and the bytes of the whole corpus.
        say: Called with what is worth a line.
        part: (i, n): do the i-th of n parts of the tasks and leave it at that; several processes can be at parts
            of one job at once.
        finish: Only put together what such parts have done.

    Returns:
        The manifest of the finished dataset, which lies in `job.output`; None after a part.

    Raises:
        UserError: The job's options, corpus, tokenizer or output cannot be used; the message says which.
        RunError: The work could not go on; the same job can be run again and continues.
    """
    job.check()
    load_normalizer(job.normalizer)
    tokenizer = Tokenizer.load(job.tokenizer)
    sources = _discover(job)
    identity = Identity.of(job, tokenizer, sources)
    if (manifest := finished(job, identity)) is not None:
        say(f"{job.output} was prepared from this corpus with these options: nothing to do")
        return manifest
    job = replace(job, tokenizer_fingerprint=tokenizer.fingerprint, driver=uuid.uuid4().hex)
    with open_build(job, identity, tokenizer, shared=part is not None), _nothing_kept_of_nothing(job):
        tasks = plan_tasks(sources)
        if not dataset_folder(job).exists():
            mine = tasks[part[0] :: part[1]] if part else tasks
            todo = _todo(job, mine, tokenizer)
            if finish and todo:
                raise UserError(_missing_parts(job, todo))
            if todo:
                job = _with_encoder(job, tokenizer, todo, say)
                _Drive(job, tasks, on_progress, say).run(mine, todo)
            if part:
                return None
            if _discover(job) != sources:
                raise UserError(
                    f"the corpus changed while it was read; remove the unfinished work (rm -r {job.build}) "
                    "and run the command again when the files are at rest"
                )
            _check_yield(job, tasks)
            if job.deduplicate:
                remove_duplicates(job, tasks)
        return assemble(job, tokenizer, tasks, identity)


def _discover(job: Job) -> list[Source]:
    return discover(job.inputs, job.suffixes, exclude=(job.output, job.build), format=job.format)


def _todo(job: Job, tasks: Iterable[Task], tokenizer: Tokenizer) -> list[Task]:
    """The tasks that are not done, or whose files are not whole."""
    itemsize = token_dtype(tokenizer.vocab_size).itemsize

    def is_done(task: Task) -> bool:
        result, folder = load_result(task_folder(job, task)), task_folder(job, task)
        return result is not None and all(
            is_intact(record, folder / record.name, itemsize) for record in result.shards
        )

    todo = [task for task in tasks if not is_done(task)]
    for task in todo:  # a damaged one is no longer taken for done
        (task_folder(job, task) / MARKER).unlink(missing_ok=True)
    return todo


def _missing_parts(job: Job, todo: list[Task]) -> str:
    listed = ", ".join(str(task.number) for task in todo[:10]) + (", …" if len(todo) > 10 else "")
    return (
        f"{job.build}: {len(todo)} tasks are not done ({listed}); with --task-count N, part I has the tasks I, I + N, "
        "I + 2N …: run those parts again, then --finish. Without --finish this process would do them itself"
    )


# --- The encoder ------------------------------------------------------------------------------------------


def _with_encoder(job: Job, tokenizer: Tokenizer, tasks: list[Task], say: Say) -> Job:
    """Chooses the encoder by what it does with samples of this corpus."""
    samples = list(_samples(job, tasks))
    name, why_not = choose_encoder(tokenizer, samples)
    if why_not:
        say(f"WARNING: {why_not}. Going on with tokenizers, some fifty times slower")
    elif name == FAST:
        size = sum(map(len, samples))
        say(f"{name} agrees with tokenizers on {len(samples)} samples of the corpus ({size:,} bytes)")
    return replace(job, encoder=name)


def _samples(job: Job, tasks: list[Task]) -> Iterator[bytes]:
    """The beginnings of documents at places all over the tasks."""
    pieces = [piece for task in tasks for piece in task.pieces]
    for number in np.unique(np.linspace(0, len(pieces) - 1, SAMPLE_PIECES).astype(int)):
        room = SAMPLE_BYTES
        for item in islice(read(pieces[number], job.reading), 64):
            if isinstance(item, Document | LongDocument):
                text = item.text if isinstance(item, Document) else next(iter(item.parts), b"")
                text = text[:room].decode(errors="ignore").encode()
                room -= len(text)
                yield text
            if room <= 0 or isinstance(item, LongDocument):
                break


# --- The tasks --------------------------------------------------------------------------------------------


class _Drive:
    """Has tasks done, and tells how far they are."""

    def __init__(self, job: Job, tasks: list[Task], on_progress: OnProgress, say: Say):
        self._job, self._tasks, self._on_progress, self._say = job, tasks, on_progress, say
        self._total = sum(task.size for task in tasks)
        self._finished = Counts()
        self._peak = 0

    def run(self, mine: list[Task], todo: list[Task]) -> None:
        """Runs the tasks that are to be done, each once, in any order."""
        left = {task.number for task in todo}
        for task in mine:
            if task.number not in left:
                self._count(task)
        if len(todo) < len(mine):
            self._say(f"goes on where it stopped: {len(mine) - len(todo)} of {len(mine)} parts are done")
        self._poll()
        calls = [(self._job, task) for task in todo]
        with closing(run_all(self._job, _run_and_name, calls, self._poll)) as results:
            for task, peak in results:
                self._peak = max(self._peak, peak)
                self._count(task)
                self._check_first_yield()
        self._poll()
        self._say(f"a worker took {self._peak / 2**20:,.0f} MiB of memory at most")

    def _count(self, task: Task) -> None:
        result = load_result(task_folder(self._job, task))
        assert result is not None
        self._finished.add(result.counts(task))

    def _poll(self) -> None:
        counts = ProgressFile.read_all(self._job.running)
        counts.add(self._finished)
        self._on_progress(counts, self._total)

    def _check_first_yield(self) -> None:
        """Fails early where not one document could be read so far, as with a wrong --text-field."""
        job, counts = self._job, self._finished
        enough = max(job.max_bad_fraction, 1 / 64) * self._total
        if counts.rejected and not counts.documents and counts.bytes > enough and job.max_bad_fraction < 1:
            raise _too_many(job, self._tasks, counts.rejected, counts.rejected)


def _run_and_name(job: Job, task: Task) -> tuple[Task, int]:
    return task, run_task(job, task)


# --- Whether there is enough ------------------------------------------------------------------------------


class _NothingReadable(UserError):
    """Not one document could be read."""


@contextmanager
def _nothing_kept_of_nothing(job: Job) -> Iterator[None]:
    """Lets a job that read no document leave nothing behind, so that the mended command just runs."""
    try:
        yield
    except _NothingReadable:
        shutil.rmtree(job.build)
        raise


def _check_yield(job: Job, tasks: list[Task]) -> None:
    """Refuses to make a dataset of a corpus that was mostly unreadable or gave no training document."""
    results = load_results(job, tasks)
    rejected = sum(result.left_out["rejected"] for result in results)
    seen = sum(result.seen for result in results)
    if rejected > job.max_bad_fraction * seen:
        raise _too_many(job, tasks, rejected, seen)
    if not any(record.split == "train" for result in results for record in result.shards):
        documents = sum(result.documents for result in results)
        way_out = (
            f"all {documents} fell into val: lower --val-fraction {job.val_fraction}"
            if documents
            else "the corpus has only empty files or lines, or the filters leave none: check the inputs"
        )
        raise UserError(f"no documents to train on; {way_out} (and rm -r {job.build})")


def _too_many(job: Job, tasks: list[Task], rejected: int, seen: int) -> UserError:
    shown = "".join(f"\n  {example}" for example in islice(_rejections(job, tasks), 3))
    problem = (
        f"{rejected:,} of {seen:,} documents cannot be read, more than --max-bad-fraction {job.max_bad_fraction} "
        f"allows. The first:{shown}\n"
    )
    if rejected == seen:
        return _NothingReadable(f"{problem}Name the field of the text with --text-field, or check the inputs")
    return UserError(
        f"{problem}Leave them out with a larger --max-bad-fraction, which goes on from here; or mend them, "
        f"remove the unfinished work (rm -r {job.build}) and run the command again"
    )


def _rejections(job: Job, tasks: list[Task]) -> Iterator[str]:
    """What was rejected so far, as "place: reason"."""
    for task in tasks:
        if load_result(task_folder(job, task)):
            with open(task_folder(job, task) / "rejected.jsonl", encoding="utf-8") as file:
                for item in map(json.loads, file):
                    piece = task.pieces[item["piece"] - task.first_piece]
                    yield f"{place(piece, item['line'], item['offset'])}: {item['reason']}"
