"""Exact deduplication: of documents with equal content the first in the order of the corpus stays.

Which one is first is known only when all tasks are done. So duplicates are found then, from the hashes that the
tasks left beside their shards, and the shards of tasks that have some are written again without them. The hashes
are dealt to buckets on disk, of which one at a time is sorted: memory does not grow with the corpus.
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
from gpt2dist.preprocessing.splits import DIGEST, FACTS, FACTS_SUFFIX, Block, SplitShardWriter
from gpt2dist.preprocessing.tasks import (
    PreprocessingJob,
    Task,
    TaskResult,
    load_result,
    task_folder,
    unique_folder,
)

BLOCK_DOCUMENTS = 1 << 16
MAX_BUCKETS = 512
BUCKET_SHARE = 16
"""A bucket may take this part of a worker's memory, since sorting takes copies of it."""

ENTRY = np.dtype([("digest", DIGEST), ("index", "<i8")])


def remove_duplicates(job: PreprocessingJob, tasks: list[Task]) -> None:
    """Finds the duplicates among the documents of finished tasks, and writes their shards anew without them.

    Raises:
        RunError: A worker died; run again, it goes on.
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
    """Writes the shards of a task without the documents that are flagged.

    Args:
        job: The job.
        task: The task.
        first: The place of its first document among all.

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
    """A byte per document in the order of tasks and shards: 1 for one that an equal document comes before."""
    return job.build / "duplicates"


def _copy_kept(record: ShardRecord, source: Path, target: Path, kept: NDArray[np.bool_]) -> ShardRecord:
    """Copies the documents of a shard that are kept."""
    shard = Shard(source / record.name)
    facts = np.memmap(source / (record.name + FACTS_SUFFIX), FACTS, "r")
    origins = np.memmap(source / (record.name + ORIGINS_SUFFIX), ORIGIN, "r")
    out = SplitShardWriter(target / record.name, shard.dtype, keep_facts=False)
    starts = shard.document_ends - shard.lengths
    for begin, end in _runs(kept):
        stop = shard.document_ends[end - 1]
        rows = slice(begin, end)
        columns = shard.lengths[rows], facts["bytes"][rows], facts["words"][rows], origins[rows]
        out.add(Block(shard.tokens[starts[begin] : stop], *columns, digests=None))
    return out.close(record.split)


def _runs(kept: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Stretches of documents that are kept, cut to `BLOCK_DOCUMENTS`: the first, behind the last."""
    edges = np.flatnonzero(np.diff(kept, prepend=False, append=False)).reshape(-1, 2)
    for begin, end in edges.tolist():
        for start in range(begin, end, BLOCK_DOCUMENTS):
            yield start, min(start + BLOCK_DOCUMENTS, end)


def _find(job: PreprocessingJob, work: list[tuple[Task, TaskResult]], documents: int) -> None:
    """Writes the flags."""
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
    """Writes the hash and place of every document into the bucket that its hash says."""
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
    """The places of all entries of a bucket but the first of those with equal hashes."""
    halves = np.ascontiguousarray(entries["digest"]).view("<u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable, and the entries come in the order of their places
    same = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)
    return entries["index"][order[1:][same]]
