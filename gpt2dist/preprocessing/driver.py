"""Build a dataset directory from a corpus, in parallel and resumably.

The corpus is cut by bytes into tasks that depend on the corpus alone. One worker reads, tokenises and writes each
task, into a folder that is renamed when it is complete. When all tasks are done, the files get their final names
in task order. So neither the number of workers nor an interruption changes a byte of the dataset.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice

import numpy as np

from gpt2dist.corpus import BadDocumentError, Document, Listing, LongDocument, read
from gpt2dist.corpus.damage import EARLY_DAMAGE
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.dataset.megatron_format import token_dtype
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.assembly import assemble, dataset_folder
from gpt2dist.preprocessing.atomic_output import MARKER, Counts, ProgressFile
from gpt2dist.preprocessing.build import check_places, check_plan, finished, is_taken, lock_build, start_build
from gpt2dist.preprocessing.corpus_plan import (
    CorpusPlan,
    count_tasks,
    delete_spool,
    list_sources,
    require_unchanged_remote,
    shared_corpus,
)
from gpt2dist.preprocessing.deduplication import remove_duplicates
from gpt2dist.preprocessing.executors import open_executor, run_all, start_early
from gpt2dist.preprocessing.filters import TextFunctions
from gpt2dist.preprocessing.fingerprint import JobFingerprint
from gpt2dist.preprocessing.job import STANDARD_INPUT, PreprocessingJob
from gpt2dist.preprocessing.outcome import warn_of_empty_split, warn_of_outcome
from gpt2dist.preprocessing.tasks import Task, is_intact, load_result, task_folder
from gpt2dist.preprocessing.worker import load_tools, run_task
from gpt2dist.preprocessing.yield_checks import (
    check_yield,
    remove_partial_if_useless,
    too_many_rejected_error,
    too_many_replaced_error,
)
from gpt2dist.tokenizer.choose import choose_tokenizer
from gpt2dist.tokenizer.encoder import FAST, choose_encoder
from gpt2dist.tokenizer.text_changes import described
from gpt2dist.tokenizer.tokenizer import Tokenizer

SAMPLE_PIECES, SAMPLE_DOCUMENTS, SAMPLE_BYTES = 32, 64, 1 << 13
"""Samples on which the encoder is checked: number of pieces, maximum documents and bytes from each."""

OnProgress = Callable[[Counts, int], None]
OnMessage = Callable[[str], None]


def prepare(
    job: PreprocessingJob,
    on_progress: OnProgress = lambda counts, total: None,
    on_info: OnMessage = lambda text: None,
    on_warning: OnMessage = lambda text: None,
    finish: bool = False,
) -> Manifest:
    """Build the dataset of a job, or resume an interrupted run of the same job.

    Args:
        job: The job.
        on_progress: Called periodically with the work done so far and the total bytes of the corpus.
        on_info: Called with each message to the user.
        on_warning: Called with each warning.
        finish: Require that `prepare_part` has done all tasks, and only complete the dataset.

    Returns:
        The manifest of the finished dataset in `job.output`.

    Raises:
        UserError: The job's options, corpus, tokenizer or output cannot be used; the message says which.
        RunError: A worker process was killed or a file cannot be written. Running the same job again resumes it.
    """
    tokenizer = _check(job)
    corpus = CorpusPlan.load(job) if finish else None  # the list that the parts used
    if corpus:
        on_info(corpus.described)
    sources = corpus or list_sources(job, on_info)
    identity = JobFingerprint.of(job, tokenizer, sources)
    if (manifest := finished(job, identity)) is not None:
        on_info(f"{job.output} was prepared from this corpus with these options: nothing to do")
        delete_spool(job, sources)
        warn_of_empty_split(manifest, on_warning)
        return manifest
    with lock_build(job, shared=False), remove_partial_if_useless(job):
        start_build(job, identity, tokenizer, shared=False)
        if isinstance(sources, Listing):
            sources = CorpusPlan.store(job, sources)
            identity = replace(identity, sources=sources)  # The temporary files of the listing disappear.
        tasks = sources.tasks
        if not dataset_folder(job).exists():
            drive = _TaskRunner(job, tokenizer, tasks, on_progress, on_info, on_warning)
            if finish:
                drive.require_all()
            drive.run(tasks)
            require_unchanged_remote(job, sources)
            check_yield(job, tasks)
            warn_of_outcome(job, tasks, on_warning)
            if job.deduplicate:
                remove_duplicates(job, tasks)
        manifest = assemble(job, tokenizer, tasks, identity)
    warn_of_empty_split(manifest, on_warning)
    return manifest


def prepare_part(
    job: PreprocessingJob,
    index: int,
    count: int,
    on_progress: OnProgress = lambda counts, total: None,
    on_info: OnMessage = lambda text: None,
    on_warning: OnMessage = lambda text: None,
) -> None:
    """Run the tasks index, index + count, index + 2·count … of a job, without assembling the dataset.

    Any number of processes, on any hosts that see the same files, can run parts of one job in parallel. Then
    `prepare(job, finish=True)` assembles the dataset.

    Args:
        job: The job.
        index: 0 ≤ index < count.
        count: The number of parts.
        on_progress: As for `prepare`, but limited to the tasks of this part.
        on_info: As for `prepare`.
        on_warning: As for `prepare`.

    Raises:
        UserError: As for `prepare`, or an input is standard input.
        RunError: As for `prepare`.
    """
    if STANDARD_INPUT in job.inputs:
        raise UserError("--task-index: not with standard input, which only one process can read; name files")
    tokenizer = _check(job)
    if is_taken(job.output):
        finished(job, JobFingerprint.of(job, tokenizer, list_sources(job, on_info)))  # or it raises
        on_info(f"{job.output} was prepared from this corpus with these options: nothing to do")
        return

    def start(sources: Listing | CorpusPlan) -> None:
        start_build(job, JobFingerprint.of(job, tokenizer, sources), tokenizer, shared=True)

    def store() -> CorpusPlan:
        listing = list_sources(job, on_info)
        start(listing)
        return CorpusPlan.store(job, listing)

    with lock_build(job, shared=True):
        corpus = shared_corpus(job, store, on_info)
        start(corpus)
        if not dataset_folder(job).exists():
            tasks = corpus.tasks
            _TaskRunner(job, tokenizer, tasks, on_progress, on_info, on_warning).run(tasks[index::count])


def check(job: PreprocessingJob) -> int:
    """Check a job as far as possible without running it, and return its number of tasks.

    Args:
        job: The job, which must not read standard input.

    Raises:
        UserError: As for `prepare`.
    """
    job.check()
    tokenizer = _check(replace(job, workers=1))  # One worker, so that no fork server is started.
    listing = list_sources(job)
    identity = JobFingerprint.of(job, tokenizer, listing)
    if finished(job, identity) is None:
        check_plan(job, identity)
    return count_tasks(job, listing)


def _check(job: PreprocessingJob) -> Tokenizer:
    """Check the options and places of a job, and load its tokenizer."""
    job.check()
    check_places(job)
    start_early(job)
    TextFunctions(job.normalizer, job.filters)
    return choose_tokenizer(job.tokenizer, job.lossy)


# --- The tasks --------------------------------------------------------------------------------------------


class _TaskRunner:
    """Runner of tasks that reports their progress."""

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
        """Run the tasks that are not done yet, each once, in any order."""
        todo = self._todo(tasks)
        if not todo:
            return
        left = {task.number for task in todo}
        for task in tasks:
            if task.number not in left:
                self._count(task)
        self._total = sum(task.size for task in tasks)
        if len(todo) < len(tasks):
            self._info(f"resuming: {len(tasks) - len(todo)} of {len(tasks)} tasks are done")
        if self._tokenizer.text_changes:
            self._warn(f"{described(self._tokenizer.text_changes)}; the manifest counts the changed documents")
        likely = replace(self._job, encoder=FAST)
        with open_executor(likely, len(todo), load_tools) as executor:
            # The workers load their tools for the likely encoder while this process chooses the encoder.
            self._job = replace(self._job, encoder=self._encoder(todo))
            self._poll()
            calls = [(self._job, task) for task in todo]
            with closing(run_all(executor, self._job, _run_and_name, calls, self._poll)) as results:
                for task, peak in results:
                    self._peak = max(self._peak, peak)
                    self._count(task)
                    self._check_damage()
        self._poll()
        self._info(f"peak memory of a worker: {self._peak / 2**20:,.0f} MiB")

    def require_all(self) -> None:
        """Check that other processes have done all tasks.

        Raises:
            UserError: A task is not done; the message lists the first ten.
        """
        todo = [task for task in self._tasks if not self._is_done(task)]
        if todo:
            listed = ", ".join(str(task.number) for task in todo[:10]) + (", …" if len(todo) > 10 else "")
            raise UserError(
                f"{self._job.build}: {len(todo)} of {len(self._tasks)} tasks are not done ({listed}). With "
                "--task-count N, index I has the tasks I, I + N, I + 2N …: run those again, then --finish; or "
                "omit --finish to run them in this process"
            )

    def _todo(self, tasks: list[Task]) -> list[Task]:
        """Return the tasks that are not done or whose files are incomplete, and delete their marker files."""
        todo = [task for task in tasks if not self._is_done(task)]
        for task in todo:
            (task_folder(self._job, task) / MARKER).unlink(missing_ok=True)  # Workers skip tasks with a marker.
        return todo

    def _is_done(self, task: Task) -> bool:
        folder = task_folder(self._job, task)
        result, itemsize = load_result(folder), token_dtype(self._tokenizer.vocab_size).itemsize
        return (
            result is not None
            and len(result.lines) == len(task.pieces)
            and all(is_intact(record, folder / record.name, itemsize) for record in result.shards)
        )

    def _encoder(self, tasks: list[Task]) -> str:
        """Choose the encoder by checking the fast one on samples of the corpus, and report the choice."""
        samples = list(_samples(self._job, tasks))
        name, why_not = choose_encoder(self._tokenizer, samples)
        if why_not:
            self._warn(f"{why_not}; falling back to tokenizers, which is some fifty times slower")
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

    def _check_damage(self) -> None:
        """Raise as soon as the damage exceeds what is allowed for the estimated size of the corpus."""
        counts = self._finished
        seen = counts.documents + counts.rejected
        if not counts.bytes:
            return
        growth = self._total / counts.bytes
        if counts.rejected >= EARLY_DAMAGE and counts.rejected > self._job.max_bad_fraction * seen * growth:
            raise too_many_rejected_error(self._job, self._tasks, counts.rejected, seen)
        if (
            counts.replaced >= EARLY_DAMAGE
            and counts.replaced > self._job.max_replaced_fraction * counts.characters * growth
        ):
            raise too_many_replaced_error(self._job, self._tasks)


def _run_and_name(job: PreprocessingJob, task: Task) -> tuple[Task, int]:
    return task, run_task(job, task)


def _samples(job: PreprocessingJob, tasks: list[Task]) -> Iterator[bytes]:
    """Yield the first bytes of documents from pieces spread evenly over the tasks, each valid UTF-8."""
    last = sum(len(task.pieces) for task in tasks) - 1
    sampled = set(np.linspace(0, last, SAMPLE_PIECES).astype(int).tolist())
    numbered = enumerate(piece for task in tasks for piece in task.pieces)
    for piece in (piece for number, piece in numbered if number in sampled):
        room = SAMPLE_BYTES
        for item in islice(read(piece, job.reading), SAMPLE_DOCUMENTS):
            if isinstance(item, Document | LongDocument):
                text = _beginning(item)[:room].decode(errors="ignore").encode()
                room -= len(text)
                yield text
            if room <= 0 or isinstance(item, LongDocument):
                break


def _beginning(document: Document | LongDocument) -> bytes:
    """Return the text of a document or its first part; b"" if it turns out to be unreadable."""
    if isinstance(document, Document):
        return document.text
    with suppress(BadDocumentError):
        return next(document.parts, b"")
    return b""
