"""Corpus → dataset directory, in parallel and resumable.

The corpus is cut into tasks by bytes, in a way that depends on the corpus alone. Each task is read, tokenised
and written by one worker, into a folder that gets its name when it is complete. When all are there, the files get
their final names in the order of the tasks. So neither the number of workers nor an interruption changes a byte.
"""

import json
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from gpt2dist.corpus import Document, LongDocument, Source, discover, read, spool
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.dataset.megatron_format import token_dtype
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.assembly import assemble, dataset_folder, load_results
from gpt2dist.preprocessing.atomic_output import MARKER, Counts, ProgressFile
from gpt2dist.preprocessing.build import JobFingerprint, check_plan, finished, open_build
from gpt2dist.preprocessing.deduplication import remove_duplicates
from gpt2dist.preprocessing.executors import open_executor, run_all, start_early
from gpt2dist.preprocessing.tasks import (
    STANDARD_INPUT,
    PreprocessingJob,
    Task,
    is_intact,
    load_result,
    plan_tasks,
    task_folder,
)
from gpt2dist.preprocessing.worker import load_normalizer, load_tools, place, run_task
from gpt2dist.tokenizer.encoder import FAST, choose_encoder
from gpt2dist.tokenizer.tokenizer import Tokenizer

SAMPLE_PIECES, SAMPLE_DOCUMENTS, SAMPLE_BYTES = 32, 64, 1 << 13
"""How many places of the corpus the encoder is proved at, and how much is taken there at most."""

OnProgress = Callable[[Counts, int], None]
OnMessage = Callable[[str], None]


def prepare(
    job: PreprocessingJob,
    on_progress: OnProgress = lambda counts, total: None,
    on_info: OnMessage = lambda text: None,
    on_warning: OnMessage = lambda text: None,
    finish: bool = False,
) -> Manifest:
    """Makes the dataset directory of a job, or goes on where an interrupted run of it stopped.

    Args:
        job: What to do.
        on_progress: Called now and then with the work done so far and the bytes of the whole corpus.
        on_info: Called with each message about the job's progress.
        on_warning: Called with the text of each warning.
        finish: Only put together what `prepare_part` has done.

    Returns:
        The manifest of the finished dataset, which lies in `job.output`.

    Raises:
        UserError: The job's options, corpus, tokenizer or output cannot be used; the message says which.
        RunError: The work could not go on; the same job can be run again and continues.
    """
    tokenizer, sources, identity = _look(job)
    if (manifest := finished(job, identity)) is not None:
        on_info(f"{job.output} was prepared from this corpus with these options: nothing to do")
        _forget_spool(job, sources)
        return manifest
    with open_build(job, identity, tokenizer, shared=False), remove_partial_if_empty(job):
        tasks = plan_tasks(sources)
        if not dataset_folder(job).exists():
            drive = _Drive(job, tokenizer, tasks, on_progress, on_info, on_warning)
            if finish:
                drive.require_all()
            drive.run(tasks)
            _check_unchanged(job, sources)
            _check_yield(job, tasks)
            if job.deduplicate:
                remove_duplicates(job, tasks)
        return assemble(job, tokenizer, tasks, identity)


def prepare_part(
    job: PreprocessingJob,
    index: int,
    count: int,
    on_progress: OnProgress = lambda counts, total: None,
    on_info: OnMessage = lambda text: None,
    on_warning: OnMessage = lambda text: None,
) -> None:
    """Does the tasks index, index + count, index + 2·count … of a job, and leaves it at that.

    Any number of processes, on any hosts that see the same files, can do parts of one job at once; then
    `prepare(job, finish=True)` puts the dataset together.

    Args:
        job: What to do.
        index: 0 ≤ index < count.
        count: The number of parts.
        on_progress: As of `prepare`, but for the tasks of this part.
        on_info: As for `prepare`.
        on_warning: As for `prepare`.

    Raises:
        UserError: As of `prepare`.
        RunError: As of `prepare`.
    """
    if STANDARD_INPUT in job.inputs:
        raise UserError("--task-index: not with standard input, which only one process can read; name files")
    tokenizer, sources, identity = _look(job)
    if finished(job, identity) is not None:
        on_info(f"{job.output} was prepared from this corpus with these options: nothing to do")
        return
    with open_build(job, identity, tokenizer, shared=True):
        tasks = plan_tasks(sources)
        if not dataset_folder(job).exists():
            _Drive(job, tokenizer, tasks, on_progress, on_info, on_warning).run(tasks[index::count])
            _check_unchanged(job, sources)


def check(job: PreprocessingJob) -> int:
    """Checks what can be known before the work begins; returns the number of its tasks.

    Args:
        job: What to do; not with standard input.

    Raises:
        UserError: As of `prepare`.
    """
    job.check()
    _, sources, identity = _look(replace(job, workers=1))  # starts none
    if finished(job, identity) is None:
        check_plan(job, identity)
    return len(plan_tasks(sources))


def _look(job: PreprocessingJob) -> tuple[Tokenizer, list[Source], JobFingerprint]:
    """Checks and finds what a job needs."""
    job.check()
    start_early(job)
    load_normalizer(job.normalizer)
    tokenizer = Tokenizer.load(job.tokenizer)
    sources = _discover(job)
    return tokenizer, sources, JobFingerprint.of(job, tokenizer, sources)


def _discover(job: PreprocessingJob) -> list[Source]:
    if STANDARD_INPUT not in job.inputs:
        return discover(
            job.inputs, job.suffixes, exclude=(job.output, job.build, job.submissions), format=job.format
        )
    if len(job.inputs) > 1:
        raise UserError("-: standard input cannot be read together with other inputs; preprocess them apart")
    # Named by its content, so that other input on another day does not replace what unfinished work needs.
    job.build.mkdir(parents=True, exist_ok=True)
    source = spool(sys.stdin.buffer, job.build / f"stdin-{uuid.uuid4().hex[:12]}.tmp", job.format or "jsonl")
    path = job.build / f"stdin-{source.version[:16]}"
    Path(source.spool).replace(path)
    return [replace(source, spool=str(path))]


def _forget_spool(job: PreprocessingJob, sources: list[Source]) -> None:
    """Removes what was read from standard input and is not needed."""
    for source in sources:
        if source.spool:
            Path(source.spool).unlink()
            if not any(job.build.iterdir()):
                job.build.rmdir()


def _check_unchanged(job: PreprocessingJob, sources: list[Source]) -> None:
    if STANDARD_INPUT not in job.inputs and _discover(job) != sources:
        raise UserError(
            f"the corpus changed while it was read; remove the unfinished work (rm -r {job.build}) "
            "and run the command again when the files are at rest"
        )


# --- The tasks --------------------------------------------------------------------------------------------


class _Drive:
    """Has tasks done, and tells how far they are."""

    def __init__(
        self,
        job: PreprocessingJob,
        tokenizer: Tokenizer,
        tasks: list[Task],
        on_progress: OnProgress,
        on_info: OnMessage,
        on_warning: OnMessage,
    ):
        self._job = replace(job, tokenizer_fingerprint=tokenizer.fingerprint, driver=uuid.uuid4().hex)
        self._tokenizer, self._tasks = tokenizer, tasks
        self._on_progress, self._info, self._warn = on_progress, on_info, on_warning
        self._total = 0
        self._finished = Counts()
        self._peak = 0

    def run(self, tasks: list[Task]) -> None:
        """Does those of the tasks that are not done yet, each once, in any order."""
        todo = self._todo(tasks)
        if not todo:
            return
        left = {task.number for task in todo}
        for task in tasks:
            if task.number not in left:
                self._count(task)
        self._total = sum(task.size for task in tasks)
        if len(todo) < len(tasks):
            self._info(f"goes on where it stopped: {len(tasks) - len(todo)} of {len(tasks)} parts are done")
        likely = replace(self._job, encoder=FAST)
        with open_executor(likely, len(todo), load_tools) as executor:  # the workers load what they need …
            self._job = replace(self._job, encoder=self._encoder(todo))  # … while this is found out
            self._poll()
            calls = [(self._job, task) for task in todo]
            with closing(run_all(executor, self._job, _run_and_name, calls, self._poll)) as results:
                for task, peak in results:
                    self._peak = max(self._peak, peak)
                    self._count(task)
                    self._check_rejections()
        self._poll()
        self._info(f"peak memory of a worker: {self._peak / 2**20:,.0f} MiB")

    def require_all(self) -> None:
        """Refuses to go on without tasks that other processes should have done.

        Raises:
            UserError: Some are not done.
        """
        todo = self._todo(self._tasks)
        if todo:
            listed = ", ".join(str(task.number) for task in todo[:10]) + (", …" if len(todo) > 10 else "")
            raise UserError(
                f"{self._job.build}: {len(todo)} of {len(self._tasks)} tasks are not done ({listed}). With "
                "--task-count N, index I has the tasks I, I + N, I + 2N …: run those again, then --finish; or "
                "leave --finish out, and this process does them"
            )

    def _todo(self, tasks: list[Task]) -> list[Task]:
        """The tasks that are not done, or whose files are not whole."""
        todo = [task for task in tasks if not self._is_done(task)]
        for task in todo:
            (task_folder(self._job, task) / MARKER).unlink(missing_ok=True)  # so that a worker does it
        return todo

    def _is_done(self, task: Task) -> bool:
        folder = task_folder(self._job, task)
        result, itemsize = load_result(folder), token_dtype(self._tokenizer.vocab_size).itemsize
        return result is not None and all(
            is_intact(record, folder / record.name, itemsize) for record in result.shards
        )

    def _encoder(self, tasks: list[Task]) -> str:
        """Chooses the encoder by what it does with samples of the corpus."""
        samples = list(_samples(self._job, tasks))
        name, why_not = choose_encoder(self._tokenizer, samples)
        if why_not:
            self._warn(f"{why_not}; going on with tokenizers, which is some fifty times slower")
        elif name == FAST:
            size = sum(map(len, samples))
            self._info(f"{name} agrees with tokenizers on {len(samples)} samples of the corpus, {size:,} bytes")
        return name

    def _count(self, task: Task) -> None:
        result = load_result(task_folder(self._job, task))
        assert result is not None
        self._finished.add(result.counts(task))

    def _poll(self) -> None:
        counts = ProgressFile.read_all(self._job.running)
        counts.add(self._finished)
        self._on_progress(counts, self._total)

    def _check_rejections(self) -> None:
        """Stops early where more documents were rejected already than the whole corpus may have."""
        counts = self._finished
        seen = counts.documents + counts.rejected
        if counts.bytes and counts.rejected > self._job.max_bad_fraction * seen * self._total / counts.bytes:
            raise _too_many(self._job, self._tasks, counts.rejected, seen)


def _run_and_name(job: PreprocessingJob, task: Task) -> tuple[Task, int]:
    return task, run_task(job, task)


def _samples(job: PreprocessingJob, tasks: list[Task]) -> Iterator[bytes]:
    """The beginnings of documents at places all over the tasks."""
    pieces = [piece for task in tasks for piece in task.pieces]
    for number in np.unique(np.linspace(0, len(pieces) - 1, SAMPLE_PIECES).astype(int)):
        room = SAMPLE_BYTES
        for item in islice(read(pieces[number], job.reading), SAMPLE_DOCUMENTS):
            if isinstance(item, Document | LongDocument):
                text = item.text if isinstance(item, Document) else next(item.parts, b"")
                text = text[:room].decode(errors="ignore").encode()
                room -= len(text)
                yield text
            if room <= 0 or isinstance(item, LongDocument):
                break


# --- Whether there is enough ------------------------------------------------------------------------------


class _NothingReadableError(UserError):
    """Not one document could be read."""


@contextmanager
def remove_partial_if_empty(job: PreprocessingJob) -> Iterator[None]:
    """Lets a job that read no document leave nothing behind, so that the mended command just runs."""
    try:
        yield
    except _NothingReadableError:
        shutil.rmtree(job.build)
        raise


def _check_yield(job: PreprocessingJob, tasks: list[Task]) -> None:
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


def _too_many(job: PreprocessingJob, tasks: list[Task], rejected: int, seen: int) -> UserError:
    shown = "".join(f"\n  {example}" for example in islice(_rejections(job, tasks), 3))
    problem = (
        f"{rejected:,} of {seen:,} documents cannot be read, more than --max-bad-fraction {job.max_bad_fraction} "
        f"allows. The first:{shown}\n"
    )
    if rejected == seen:
        return _NothingReadableError(
            f"{problem}Name the field of the text with --text-field, or check the inputs"
        )
    return UserError(
        f"{problem}Leave them out with a larger --max-bad-fraction, which goes on from here; or mend them, "
        f"remove the unfinished work (rm -r {job.build}) and run the command again"
    )


def _rejections(job: PreprocessingJob, tasks: list[Task]) -> Iterator[str]:
    """What was rejected so far, as "place: reason"."""
    for task in tasks:
        if load_result(task_folder(job, task)):
            with open(task_folder(job, task) / "rejected.jsonl", encoding="utf-8") as file:
                for item in map(json.loads, file):
                    piece = task.pieces[item["piece"] - task.first_piece]
                    yield f"{place(piece, item['line'], item['offset'])}: {item['reason']}"
