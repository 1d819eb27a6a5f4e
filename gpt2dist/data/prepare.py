"""Corpus → dataset directory, in parallel and resumable.

The corpus is cut into tasks by bytes, in a way that depends on the corpus alone. Each task is read, tokenised
and written by one worker, into files of its own, with a marker written last. When all markers are there, the
files get their final names in the order of the tasks. So neither the number of workers nor an interruption
changes a byte of the result.

    OUTPUT.partial/plan.json        what the job is: a rerun with the same plan goes on, another is refused
                   sources.jsonl    the files of the corpus
                   tokenizer/       a copy, so that all workers have the same
                   tasks/00000/     shards, rejected.jsonl, and done.json when they are complete
                   dataset/         the result as it comes together; renamed to OUTPUT
"""

import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gpt2dist.data.corpus import discover
from gpt2dist.data.manifest import Manifest, sync_directory, write_durably
from gpt2dist.data.shards import token_dtype
from gpt2dist.data.tasks import (
    SPLITS,
    Counts,
    Job,
    Task,
    TaskResult,
    TaskRunner,
    is_intact,
    load_result,
    plan_tasks,
    shard_name,
    task_folder,
)
from gpt2dist.data.tokenizer import Tokenizer
from gpt2dist.errors import UserError

POLL_SECONDS = 0.2
"""How often the parent looks at what its workers have done."""


class WorkerDiedError(RuntimeError):
    """A worker process went away without an answer; what is done stays done."""


def prepare(
    job: Job,
    on_progress: Callable[[Counts, int], None] = lambda counts, total: None,
    say: Callable[[str], None] = lambda text: None,
) -> Manifest:
    """Makes the dataset directory of a job, or goes on where an interrupted run of it stopped.

    Args:
        job: What to do.
        on_progress: Called now and then with the work done so far and the bytes of the whole corpus.
        say: Called with what is worth a line: that the job continues, or has nothing to do.

    Returns:
        The manifest of the finished dataset, which lies in `job.output`.

    Raises:
        UserError: The job's options, corpus, tokenizer or output cannot be used; the message says which.
        WorkerDiedError: A worker process was killed; the same job can be run again and continues.
    """
    _check_options(job)
    tokenizer = Tokenizer.load(job.tokenizer)
    sources = discover(job.inputs, job.suffixes, exclude=(job.output, job.build))
    listing = "".join(json.dumps(asdict(source)) + "\n" for source in sources)
    plan = {
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "options": job.options,
        "sources": {
            "files": len(sources),
            "bytes": sum(source.size for source in sources),
            "listing_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        },
    }
    if (finished := _finished(job, plan, listing)) is not None:
        say(f"{job.output} was prepared from this corpus with these options: nothing to do")
        return finished
    with _open_build(job, plan, listing), _nothing_kept_of_nothing(job):
        tokenizer.save(job.build / "tokenizer")
        tasks = plan_tasks(sources)
        if not _dataset(job).exists():
            _run_tasks(job, tasks, token_dtype(tokenizer.vocab_size), on_progress, say)
            if discover(job.inputs, job.suffixes, exclude=(job.output, job.build)) != sources:
                raise UserError(
                    f"the corpus changed while it was read; remove the unfinished work (rm -r {job.build}) "
                    "and run the command again when the files are at rest"
                )
            _check_yield(job, tasks)
        manifest = _assemble(job, tokenizer, tasks, plan)
    return manifest


def _check_options(job: Job) -> None:
    if not 0 <= job.val_fraction < 1:
        raise UserError(f"--val-fraction {job.val_fraction}: must be at least 0 and below 1, such as 0.01")
    if not 0 <= job.max_bad_fraction <= 1:
        raise UserError(f"--max-bad-fraction {job.max_bad_fraction}: must be between 0 and 1, such as 0.001")
    if job.workers < 1:
        raise UserError(f"--workers {job.workers}: must be at least 1")
    if job.shard_tokens < 1:
        raise UserError(f"--shard-tokens {job.shard_tokens}: must be at least 1")


# --- The directories --------------------------------------------------------------------------------------


def _finished(job: Job, plan: dict[str, Any], listing: str) -> Manifest | None:
    """The dataset in `job.output` where it is this job's; None where there is none yet."""
    if not job.output.exists() or (job.output.is_dir() and not any(job.output.iterdir())):
        return None
    if not (job.output / "manifest.json").is_file():
        raise UserError(f"{job.output}: exists and is not a dataset directory; choose another --output")
    manifest = Manifest.load(job.output)
    different = _differences(job.output, {name: getattr(manifest, name) for name in plan}, plan, listing)
    if different:
        raise UserError(
            f"{job.output}: holds another dataset: {'; '.join(different)}. "
            "Choose another --output, or remove this one to make it anew"
        )
    if (job.build / "plan.json").is_file() and json.loads((job.build / "plan.json").read_bytes()) == plan:
        shutil.rmtree(job.build)  # left behind by a run that was killed at the very end
    return manifest


@contextmanager
def _open_build(job: Job, plan: dict[str, Any], listing: str) -> Iterator[None]:
    """Makes the build directory or takes up the one of an interrupted run, and keeps other runs out of it."""
    job.build.mkdir(parents=True, exist_ok=True)
    with open(job.build / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{job.build}: another gpt2dist preprocess is at work here; wait for it") from None
        path = job.build / "plan.json"
        if path.is_file():
            different = _differences(job.build, json.loads(path.read_bytes()), plan, listing)
            if different:
                raise UserError(
                    f"{job.build}: holds the unfinished work of another job: {'; '.join(different)}. "
                    f"Remove it (rm -r {job.build}) or choose another --output"
                )
        else:
            if any(item.name != "lock" and item.suffix != ".tmp" for item in job.build.iterdir()):
                raise UserError(f"{job.build}: exists and is not the work of gpt2dist; choose another --output")
            write_durably(job.build / "sources.jsonl", listing)
            write_durably(path, json.dumps(plan))
        yield


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


def _differences(directory: Path, there: dict[str, Any], here: dict[str, Any], listing: str) -> list[str]:
    """In words, what another job in `directory` has otherwise than this one."""
    different = [
        f"--{name.replace('_', '-')} {there['options'].get(name)} there, {value} here"
        for name, value in here["options"].items()
        if there["options"].get(name) != value
    ]
    if there["tokenizer_fingerprint"] != here["tokenizer_fingerprint"]:
        different.append("another tokenizer")
    if there["sources"] != here["sources"]:
        different.append(f"another corpus ({_corpus_difference(directory / 'sources.jsonl', listing)})")
    return different


def _corpus_difference(path: Path, listing: str) -> str:
    there = {line["path"]: line for line in map(json.loads, path.read_text().splitlines())}
    here = {line["path"]: line for line in map(json.loads, listing.splitlines())}
    kinds = {
        "new": [name for name in here if name not in there],
        "gone": [name for name in there if name not in here],
        "changed": [name for name in here if name in there and here[name] != there[name]],
    }
    return ", ".join(f"{len(names)} {kind}: {names[0]} …" for kind, names in kinds.items() if names)


# --- The tasks --------------------------------------------------------------------------------------------


def _run_tasks(
    job: Job,
    tasks: list[Task],
    dtype: np.dtype,
    on_progress: Callable[[Counts, int], None],
    say: Callable[[str], None],
) -> None:
    """Runs the tasks that are not done yet, each once, in any order."""
    total = sum(task.size for task in tasks)
    before = Counts()
    todo = []
    for task in tasks:
        result = _intact_result(job, task, dtype)
        if result is None:
            todo.append(task)
        else:
            _count(before, Counts(task.size, result.tokens, result.documents, result.rejected))
    if len(todo) < len(tasks):
        say(f"goes on where it stopped: {len(tasks) - len(todo)} of {len(tasks)} parts are done")
    on_progress(before, total)
    with _executor(job, min(job.workers, len(todo)), before, lambda counts: on_progress(counts, total)) as pool:
        executor, counts = pool
        queue, pending = iter(todo), set[Future[None]]()
        while True:
            for task in islice(queue, 2 * job.workers - len(pending)):
                pending.add(executor.submit(_run_task, task))
            if not pending:
                break
            done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            on_progress(counts(), total)
            if done:
                _check_first_yield(job, tasks, counts(), total)


def _intact_result(job: Job, task: Task, dtype: np.dtype) -> TaskResult | None:
    """The result of a task whose marker and files are there."""
    result, folder = load_result(job, task), task_folder(job, task)
    intact = result and all(is_intact(record, folder / record.name, dtype.itemsize) for record in result.shards)
    return result if intact else None


def _count(counts: Counts, more: Counts) -> None:
    for item in fields(Counts):
        setattr(counts, item.name, getattr(counts, item.name) + getattr(more, item.name))


class _Stopped(Exception):
    """The parent has given up; a worker leaves its task."""


class _InlineExecutor(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Calls `function`; its exception passes through."""
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


@contextmanager
def _executor(
    job: Job, workers: int, before: Counts, on_counts: Callable[[Counts], None]
) -> Iterator[tuple[Executor, Callable[[], Counts]]]:
    """An executor for `_run_task`, and a function that gives the work done so far."""
    global _runner
    if workers <= 1:
        counts = Counts(**asdict(before))

        def report(more: Counts) -> None:
            _count(counts, more)
            on_counts(counts)

        _runner = TaskRunner(job, report)
        try:
            yield _InlineExecutor(), lambda: counts
        finally:
            _runner = None
        return
    context = multiprocessing.get_context("spawn")
    shared = context.Array("q", [*asdict(before).values(), 0])
    executor = ProcessPoolExecutor(workers, context, _start_worker, (job, shared))
    try:
        yield executor, lambda: Counts(*shared[:-1])
    except BrokenProcessPool:
        raise WorkerDiedError(
            "a worker process died, most likely killed for memory. What is done is kept: run the same command "
            "again to go on, with fewer --workers if memory is short"
        ) from None
    finally:
        shared[-1] = 1  # after success nobody is left to read it
        executor.shutdown(cancel_futures=True)


_runner: TaskRunner | None = None
"""Of this process, so that a task does not carry its tokenizer."""


def _run_task(task: Task) -> None:
    assert _runner is not None
    _runner.run(task)


def _start_worker(job: Job, shared: Any) -> None:
    global _runner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    threading.Thread(target=_die_with_parent, daemon=True).start()

    def report(more: Counts) -> None:
        with shared.get_lock():
            for place, amount in enumerate(asdict(more).values()):
                shared[place] += amount
            if shared[-1]:
                raise _Stopped

    _runner = TaskRunner(job, report)


def _die_with_parent() -> None:
    """Ends this worker when the parent was killed: its successor may already be at the same task."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# --- The result -------------------------------------------------------------------------------------------


def _check_first_yield(job: Job, tasks: list[Task], counts: Counts, total: int) -> None:
    """Fails early where not one document could be read so far, as with a wrong --text-field."""
    enough = max(job.max_bad_fraction, 1 / 64) * total
    if counts.rejected and not counts.documents and counts.bytes > enough and job.max_bad_fraction < 1:
        raise _too_many(job, tasks, counts.rejected, counts.rejected)


def _check_yield(job: Job, tasks: list[Task]) -> None:
    """Refuses to make a dataset of a corpus that was mostly unreadable or gave no training document."""
    results = _results(job, tasks)
    rejected = sum(result.rejected for result in results)
    seen = rejected + sum(result.documents + result.empty for result in results)
    if rejected > job.max_bad_fraction * seen:
        raise _too_many(job, tasks, rejected, seen)
    if not any(record.split == "train" for result in results for record in result.shards):
        documents = sum(result.documents for result in results)
        way_out = (
            f"all {documents} fell into val: lower --val-fraction {job.val_fraction}"
            if documents
            else "the corpus has only empty files or lines: check the inputs"
        )
        raise UserError(f"no documents to train on; {way_out} (and rm -r {job.build})")


def _too_many(job: Job, tasks: list[Task], rejected: int, seen: int) -> UserError:
    examples: list[dict[str, Any]] = []
    for task in tasks:
        if len(examples) < 3 and load_result(job, task):
            with open(task_folder(job, task) / "rejected.jsonl", encoding="utf-8") as file:
                examples += [json.loads(line) for line in islice(file, 3 - len(examples))]
    shown = "".join(f"\n  {item['file']}:{item['line']}: {item['reason']}" for item in examples)
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


def _results(job: Job, tasks: list[Task]) -> list[TaskResult]:
    results = [load_result(job, task) for task in tasks]
    assert all(results), "a task without a marker"
    return [result for result in results if result is not None]


def _dataset(job: Job) -> Path:
    return job.build / "dataset"


def _assemble(job: Job, tokenizer: Tokenizer, tasks: list[Task], plan: dict[str, Any]) -> Manifest:
    """Gives all files their final names and places; can be interrupted and repeated."""
    target, results = _dataset(job), _results(job, tasks)
    dtype = token_dtype(tokenizer.vocab_size)
    target.mkdir(exist_ok=True)
    records = []
    for split in SPLITS:
        number = 0
        for task, result in zip(tasks, results, strict=True):
            for record in result.shards:
                if record.split == split:
                    name = shard_name(split, number)
                    _move(task_folder(job, task) / record.name, target / name)
                    records.append(replace(record, name=name))
                    number += 1
    broken = [record.name for record in records if not is_intact(record, target / record.name, dtype.itemsize)]
    if broken:
        raise UserError(f"{target / broken[0]}: damaged; rm -r {job.build} and run the command again")
    rejected = [(task_folder(job, task) / "rejected.jsonl").read_text("utf-8") for task in tasks]
    write_durably(target / "rejected.jsonl", "".join(rejected))
    write_durably(target / "sources.jsonl", (job.build / "sources.jsonl").read_text("utf-8"))
    tokenizer.save(target)
    manifest = Manifest(
        **plan,
        vocab_size=tokenizer.vocab_size,
        end_of_text_id=tokenizer.end_of_text_id,
        dtype=dtype.name,
        shards=tuple(records),
        left_out={
            "rejected": sum(result.rejected for result in results),
            "empty": sum(result.empty for result in results),
        },
        repaired=sum(result.repaired for result in results),
    )
    manifest.save(target)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    target.replace(job.output)
    sync_directory(job.output.parent)
    shutil.rmtree(job.build)
    return Manifest.load(job.output)


def _move(source: Path, target: Path) -> None:
    """Renames the two files of a shard; those that a run before has renamed are left."""
    for kind in ("bin", "idx"):
        path = source.with_name(f"{source.name}.{kind}")
        if path.exists():
            path.replace(target.with_name(f"{target.name}.{kind}"))
