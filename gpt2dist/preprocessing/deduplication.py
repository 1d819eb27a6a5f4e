"""Exact deduplication: keep the first, in corpus order, of all documents with equal content.

Which document is first is known only when all tasks are done. Duplicates are then found from the hashes that the
tasks wrote beside their shards, and the shards of tasks with duplicates are rewritten without them. The hashes
are distributed to buckets on disk, which are sorted one at a time, so memory does not grow with the corpus.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

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
from gpt2dist.preprocessing.tasks import (
    Task,
    TaskResult,
    load_result,
    task_folder,
    unique_folder,
)

BLOCK_DOCUMENTS = 1 << 16
MAX_BUCKETS = 512
BUCKET_SHARE = 16
"""A bucket may take 1/`BUCKET_SHARE` of a worker's memory, since sorting needs copies of it."""

ENTRY = np.dtype([("digest", DIGEST), ("index", "<i8")])


def remove_duplicates(job: PreprocessingJob, tasks: list[Task]) -> None:
    """Find the duplicates among the documents of finished tasks, and rewrite the shards without them.

    Raises:
        RunError: A worker process was killed, or a file cannot be written. A rerun resumes.
    """
    results = [_result(job, task) for task in tasks]
    firsts = np.cumsum([0, *(result.documents for result in results)]).tolist()
    if not _flags_path(job).exists():
        _find(job, [*zip(tasks, results, strict=True)], firsts[-1])
    flags = np.memmap(_flags_path(job), np.bool_, "r")
    calls = [
        (job, task, first)
        for task, (first, last) in zip(tasks, pairwise(firsts), strict=True)
        if flags[first:last].any() and not (unique_folder(job, task) / MARKER).exists()
    ]
    with (
        open_executor(job, len(calls)) as executor,
        closing(run_all(executor, job, remove_from_task, calls)) as done,
    ):
        for _ in done:
            pass


def remove_from_task(job: PreprocessingJob, task: Task, first: int) -> None:
    """Rewrite the shards of a task without the documents flagged as duplicates.

    Args:
        job: The job.
        task: The task.
        first: The index of its first document among all documents.

    Raises:
        RunError: The files cannot be written.
    """
    result = _result(job, task)
    with attempt(unique_folder(job, task), job.running) as folder:
        records = []
        for record in result.shards:
            kept = ~np.fromfile(_flags_path(job), np.bool_, record.documents, offset=first)
            first += record.documents
            if kept.any():
                records.append(_copy_kept(record, task_folder(job, task), folder, kept))
        duplicates = result.documents - sum(record.documents for record in records)
        content = asdict(result) | {
            "shards": [asdict(record) for record in records],
            "left_out": result.left_out | {"duplicate": duplicates},
        }
        atomic_io.write_text(folder / MARKER, json.dumps(content))


def _result(job: PreprocessingJob, task: Task) -> TaskResult:
    result = load_result(task_folder(job, task))
    assert result is not None, "a task without a marker"
    return result


def _flags_path(job: PreprocessingJob) -> Path:
    """Return the path of the flags: a byte per document, by task and shard, 1 if an earlier document is equal."""
    return job.build / "duplicates"


def _copy_kept(record: ShardRecord, source: Path, target: Path, kept: NDArray[np.bool_]) -> ShardRecord:
    """Copy the kept documents of a shard to a new shard."""
    shard = Shard(source / record.name)
    facts = np.memmap(source / (record.name + FACTS_SUFFIX), FACTS, "r")
    origins = np.memmap(source / (record.name + ORIGINS_SUFFIX), ORIGIN, "r")
    out = SplitShardWriter(target / record.name, shard.dtype, keep_facts=False)
    starts = shard.document_ends - shard.lengths
    for begin, end in _runs(kept):
        stop = shard.document_ends[end - 1]
        rows = slice(begin, end)
        out.add(
            DocumentBlock(
                shard.tokens[starts[begin] : stop],
                shard.lengths[rows],
                sizes=facts["bytes"][rows],
                words=facts["words"][rows],
                lm_eval_words=facts["lm_eval_words"][rows],
                origins=origins[rows],
                digests=None,
            )
        )
    return out.close(record.split)


def _runs(kept: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield (start, end), end exclusive, of runs of kept documents, at most `BLOCK_DOCUMENTS` each."""
    edges = np.flatnonzero(np.diff(kept, prepend=False, append=False)).reshape(-1, 2)
    for begin, end in edges.tolist():
        for start in range(begin, end, BLOCK_DOCUMENTS):
            yield start, min(start + BLOCK_DOCUMENTS, end)


def _find(job: PreprocessingJob, work: list[tuple[Task, TaskResult]], documents: int) -> None:
    """Write the flags file."""
    buckets = min(1 + documents * ENTRY.itemsize * BUCKET_SHARE // job.memory_per_worker, MAX_BUCKETS)
    with attempt(job.build / "hashes" / "0", job.running) as folder:
        _deal(job, work, folder, buckets)
        flags = np.memmap(folder / "flags", np.bool_, "w+", shape=(documents,))
        for number in range(buckets):
            flags[_later_equals(np.fromfile(folder / str(number), ENTRY))] = True
        flags.flush()
        (folder / "flags").rename(_flags_path(job))
        atomic_io.write_text(folder / MARKER, "")
    shutil.rmtree(job.build / "hashes")


def _deal(job: PreprocessingJob, work: list[tuple[Task, TaskResult]], folder: Path, buckets: int) -> None:
    """Write the hash and index of every document to the bucket that its hash selects."""
    place = 0
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / str(number), "wb")) for number in range(buckets)]
        for task, result in work:
            for record in result.shards:
                facts = np.memmap(task_folder(job, task) / (record.name + FACTS_SUFFIX), FACTS, "r")
                for start in range(0, len(facts), BLOCK_DOCUMENTS):
                    digests = np.ascontiguousarray(facts["digest"][start : start + BLOCK_DOCUMENTS])
                    entries = np.empty(len(digests), ENTRY)
                    entries["digest"], entries["index"] = digests, place + np.arange(len(digests))
                    place += len(digests)
                    bucket = digests.view("<u4")[::4] % np.uint32(buckets)
                    for number in np.unique(bucket):
                        entries[bucket == number].tofile(files[number])


def _later_equals(entries: NDArray[np.void]) -> NDArray[np.int64]:
    """Return the indices of all entries of a bucket that repeat an earlier hash, int64 [duplicates]."""
    halves = np.ascontiguousarray(entries["digest"]).view("<u8").reshape(-1, 2)
    # The sort is stable and the entries are in index order, so the first of equal entries is the earliest.
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    same = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)
    return entries["index"][order[1:][same]]
