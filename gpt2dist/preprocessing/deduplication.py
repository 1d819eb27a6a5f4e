"""Exact deduplication: keep the first, in corpus order, of all documents with equal content.

Which document is first is known only when all tasks are done. Then there are three rounds of calls, each of them
in parallel, and each call leaves a finished folder, so that an interrupted round resumes:

1. For each task, the hashes that it wrote beside its shards are sorted, in runs that fit into memory. A document
   that repeats another of its run is a duplicate.
2. All hashes are divided into buckets by value. For each bucket, the slices of all runs that belong to it are
   read and sorted. A document with the hash of an earlier one is a duplicate.
3. The shards of each task with duplicates are written again without them.

A run and a bucket take a fixed share of a worker's memory: a larger corpus has more of them. A hash comes into
its bucket at most once per run, so that one text in every other document does not fill a bucket.

OUTPUT.partial/duplicates-00038/        while the first two rounds run, with 38 buckets; then duplicates/
                 documents              the number of documents of each task, int64
                 runs-00007/            of task 7: its entries by run and hash, the borders of the buckets in
                                        each run, and the indices in the task of duplicates within a run
                 bucket-00012/          the indices among all documents of the duplicates in the bucket
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2dist import atomic_io
from gpt2dist.dataset.manifest import ShardRecord
from gpt2dist.dataset.megatron_format import Shard
from gpt2dist.dataset.provenance import ORIGIN
from gpt2dist.dataset.provenance import SUFFIX as ORIGINS_SUFFIX
from gpt2dist.preprocessing.atomic_output import MARKER, attempt
from gpt2dist.preprocessing.executors import open_executor, run_all
from gpt2dist.preprocessing.job import PreprocessingJob
from gpt2dist.preprocessing.splits import DIGEST, FACTS, FACTS_SUFFIX, DocumentBlock, SplitShardWriter
from gpt2dist.preprocessing.tasks import Task, TaskResult, load_result, task_folder, unique_folder

BLOCK_DOCUMENTS, BLOCK_TOKENS = 1 << 16, 1 << 22
"""Documents and tokens of a shard that are copied at a time; a longer document is a block of its own."""
BUCKET_SHARE = 16
"""A run or a bucket may take 1/`BUCKET_SHARE` of a worker's memory, since sorting needs copies of it."""

ENTRY = np.dtype([("digest", DIGEST), ("index", "<i8")])
"""The hash of a document and its index in its task."""
INDEX = np.dtype("<i8")

DOCUMENTS, ENTRIES, BORDERS, DUPLICATES = "documents", "entries", "borders", "duplicates"


def remove_duplicates(job: PreprocessingJob, tasks: list[Task]) -> None:
    """Find the duplicates among the documents of finished tasks, and rewrite the shards without them.

    Raises:
        RunError: A worker process was killed, or a file cannot be written. A rerun resumes.
    """
    found = _found(job)
    if not found.is_dir():
        _find(job, tasks)
    firsts = _firsts(found)
    affected = np.array([(_runs(found, task.number) / DUPLICATES).stat().st_size > 0 for task in tasks])
    for path in found.glob("bucket-*"):
        affected[np.searchsorted(firsts, _mapped(path / DUPLICATES), side="right") - 1] = True
    calls = [
        (job, task, first)
        for task, first, has_duplicates in zip(tasks, firsts[:-1].tolist(), affected, strict=True)
        if has_duplicates and not (unique_folder(job, task) / MARKER).exists()
    ]
    _call(job, remove_from_task, calls)


def remove_from_task(job: PreprocessingJob, task: Task, first: int) -> None:
    """Rewrite the shards of a task without the documents that are duplicates.

    Args:
        job: The job.
        task: The task.
        first: The index of its first document among all documents.

    Raises:
        RunError: The files cannot be written.
    """
    result = _result(job, task)
    with attempt(unique_folder(job, task), job.running) as folder:
        records, begin = [], 0
        for record in result.shards:
            kept = np.ones(record.documents, np.bool_)
            for indices in _duplicates_between(_found(job), task, first, begin, begin + record.documents):
                kept[indices - begin] = False
            begin += record.documents
            if kept.any():
                records.append(_copy_kept(record, task_folder(job, task), folder, kept))
        duplicates = result.documents - sum(record.documents for record in records)
        content = asdict(result) | {
            "shards": [asdict(record) for record in records],
            "left_out": result.left_out | {"duplicate": duplicates},
        }
        atomic_io.write_text(folder / MARKER, json.dumps(content))


def _call(job: PreprocessingJob, function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
    """Run calls on the executor of the job, in any order."""
    if calls:
        with open_executor(job, len(calls)) as executor, closing(run_all(executor, job, function, calls)) as done:
            for _ in done:
                pass


def _result(job: PreprocessingJob, task: Task) -> TaskResult:
    result = load_result(task_folder(job, task))
    assert result is not None, "a task without a marker"
    return result


# --- Finding ----------------------------------------------------------------------------------------------


def _found(job: PreprocessingJob) -> Path:
    """Return the folder of the duplicates, once all are found."""
    return job.build / "duplicates"


def _find(job: PreprocessingJob, tasks: list[Task]) -> None:
    """Find all duplicates."""
    documents = np.array([_result(job, task).documents for task in tasks], INDEX)
    buckets = 1 + int(documents.sum()) * ENTRY.itemsize * BUCKET_SHARE // job.memory_per_worker
    folder = job.build / f"duplicates-{buckets:05d}"
    for other in job.build.glob("duplicates*"):  # of other options, or of an older version
        if other.is_file():
            other.unlink()
        elif other != folder:
            shutil.rmtree(other)
    folder.mkdir(exist_ok=True)
    documents.tofile(folder / DOCUMENTS)
    calls: list[tuple[Any, ...]] = [
        (job, task, folder, buckets) for task in tasks if not (_runs(folder, task.number) / MARKER).exists()
    ]
    _call(job, sort_task, calls)
    calls = [
        (job, folder, number) for number in range(buckets) if not (_bucket(folder, number) / MARKER).exists()
    ]
    _call(job, search_bucket, calls)
    atomic_io.rename_directory(folder, _found(job))


def sort_task(job: PreprocessingJob, task: Task, folder: Path, buckets: int) -> None:
    """Sort the hashes of a task in runs, and find the duplicates within each run.

    Args:
        job: The job.
        task: The task.
        folder: The folder of the duplicates.
        buckets: The number of buckets.

    Raises:
        RunError: The files cannot be written.
    """
    # Equal divisions of the first half of the hash, in which every bucket but the first begins.
    starts = (np.arange(1, buckets, dtype=object) * 2**64 // buckets).astype(np.uint64)
    borders, written = [], 0
    with attempt(_runs(folder, task.number), job.running) as target:
        with open(target / ENTRIES, "wb") as file, open(target / DUPLICATES, "wb") as duplicates:
            for entries in _entries(job, task):
                halves, order = _sorted(entries)
                repeats = _repeats(halves, order)
                np.sort(entries["index"][order[1:][repeats]]).tofile(duplicates)
                order = order[np.concatenate([[True], ~repeats])]
                inside = np.searchsorted(halves[order, 0], starts)
                borders.append(written + np.concatenate([[0], inside, [order.size]]))
                entries[order].tofile(file)
                written += order.size
        np.array(borders, INDEX).reshape(-1, buckets + 1).tofile(target / BORDERS)
        atomic_io.write_text(target / MARKER, "{}")


def search_bucket(job: PreprocessingJob, folder: Path, number: int) -> None:
    """Find the documents of a bucket that repeat an earlier one of another run.

    Args:
        job: The job.
        folder: The folder of the duplicates.
        number: The number of the bucket.

    Raises:
        RunError: The files cannot be written.
    """
    firsts = _firsts(folder)
    buckets = int(folder.name.rpartition("-")[2])
    with attempt(_bucket(folder, number), job.running) as target:
        parts = [np.zeros(0, ENTRY)]
        for task, first in enumerate(firsts[:-1].tolist()):
            runs = _runs(folder, task)
            borders = _mapped(runs / BORDERS).reshape(-1, buckets + 1)
            for start, end in borders[:, number : number + 2].tolist():
                entries = np.fromfile(runs / ENTRIES, ENTRY, end - start, offset=start * ENTRY.itemsize)
                entries["index"] += first
                parts.append(entries)
        entries = np.concatenate(parts)
        parts.clear()
        # The runs are in the order of the corpus and the sort is stable, so the first of equal entries is kept.
        halves, order = _sorted(entries)
        np.sort(entries["index"][order[1:][_repeats(halves, order)]]).tofile(target / DUPLICATES)
        atomic_io.write_text(target / MARKER, "{}")


def _entries(job: PreprocessingJob, task: Task) -> Iterator[NDArray[np.void]]:
    """Yield the entries of a task in the order of its documents, in runs of bounded size."""
    room = max(job.memory_per_worker // BUCKET_SHARE // ENTRY.itemsize, 1)
    place = 0
    for record in _result(job, task).shards:
        facts = np.memmap(task_folder(job, task) / (record.name + FACTS_SUFFIX), FACTS, "r")
        for start in range(0, len(facts), room):
            digests = facts["digest"][start : start + room]
            entries = np.empty(len(digests), ENTRY)
            entries["digest"], entries["index"] = digests, place + np.arange(len(digests))
            place += len(digests)
            yield entries


def _sorted(entries: NDArray[np.void]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the halves of the hashes, uint64 [entries, 2], and the order that sorts them; it is stable."""
    halves = np.ascontiguousarray(entries["digest"]).view("<u8").reshape(-1, 2)
    return halves, np.lexsort((halves[:, 1], halves[:, 0]))


def _repeats(halves: NDArray[np.uint64], order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each hash but the first equals the one before it, in this order."""
    return (halves[order[1:]] == halves[order[:-1]]).all(axis=1)


def _firsts(folder: Path) -> NDArray[np.int64]:
    """Return the index of the first document of each task, and the number of all documents."""
    return np.concatenate([[0], np.cumsum(np.fromfile(folder / DOCUMENTS, INDEX))])


def _runs(folder: Path, task: int) -> Path:
    return folder / f"runs-{task:05d}"


def _bucket(folder: Path, number: int) -> Path:
    return folder / f"bucket-{number:05d}"


def _duplicates_between(
    folder: Path, task: Task, first: int, begin: int, end: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the duplicates among the documents `begin` to `end` (exclusive) of a task, by index in the task.

    `first` is the index of the first document of the task among all documents.
    """
    files = [(_runs(folder, task.number), 0), *((path, first) for path in folder.glob("bucket-*"))]
    for path, base in files:
        indices = _mapped(path / DUPLICATES)
        yield indices[slice(*np.searchsorted(indices, (base + begin, base + end)))] - base


def _mapped(path: Path) -> NDArray[np.int64]:
    """Map a file of indices; an empty file cannot be mapped."""
    return np.asarray(np.memmap(path, INDEX, "r")) if path.stat().st_size else np.zeros(0, INDEX)


# --- Removing ---------------------------------------------------------------------------------------------


def _copy_kept(record: ShardRecord, source: Path, target: Path, kept: NDArray[np.bool_]) -> ShardRecord:
    """Copy the kept documents of a shard to a new shard."""
    shard = Shard(source / record.name)
    facts = np.memmap(source / (record.name + FACTS_SUFFIX), FACTS, "r")
    origins = np.memmap(source / (record.name + ORIGINS_SUFFIX), ORIGIN, "r")
    out = SplitShardWriter(target / record.name, shard.dtype, keep_facts=False)
    ends = shard.document_ends
    for begin, end in _blocks(ends):
        rows = begin + np.flatnonzero(kept[begin:end])
        if not rows.size:
            continue
        tokens = shard.tokens[ends[begin] - shard.lengths[begin] : ends[end - 1]]
        if rows.size < end - begin:
            tokens = tokens[np.repeat(kept[begin:end], shard.lengths[begin:end])]
        chosen = facts[rows]
        out.add(
            DocumentBlock(
                tokens,
                shard.lengths[rows],
                sizes=chosen["bytes"],
                words=chosen["words"],
                lm_eval_words=chosen["lm_eval_words"],
                origins=origins[rows],
                digests=None,
            )
        )
    return out.close(record.split)


def _blocks(ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (start, end), end exclusive, of blocks of documents, given the last token of each."""
    begin, tokens = 0, 0
    while begin < len(ends):
        fit = int(np.searchsorted(ends, tokens + BLOCK_TOKENS, side="right"))
        end = max(begin + 1, min(fit, begin + BLOCK_DOCUMENTS))
        yield begin, end
        begin, tokens = end, int(ends[end - 1])
