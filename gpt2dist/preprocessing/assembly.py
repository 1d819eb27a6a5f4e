"""Assemble the outputs of finished preprocessing tasks into a dataset directory."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io
from gpt2dist.corpus import Piece
from gpt2dist.dataset.manifest import Manifest, ShardRecord
from gpt2dist.dataset.megatron_format import token_dtype
from gpt2dist.dataset.provenance import PIECES_NAME
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.fingerprint import JobFingerprint
from gpt2dist.preprocessing.job import STANDARD_INPUT, PreprocessingJob
from gpt2dist.preprocessing.pieces import matched
from gpt2dist.preprocessing.tasks import (
    FILTERED_NAME,
    REJECTED_NAME,
    SHARD_SUFFIXES,
    SPLITS,
    Task,
    TaskResult,
    TaskTotals,
    final_folder,
    is_intact,
    load_filtered,
    load_rejections,
    load_result,
    shard_name,
)
from gpt2dist.tokenizer.tokenizer import Tokenizer


def load_results(job: PreprocessingJob, tasks: Sequence[Task]) -> Iterator[TaskResult]:
    """Yield the results of `tasks`, which must all be finished; deduplicated ones where they exist."""
    for task in tasks:
        result = load_result(final_folder(job, task))
        assert result is not None, "a task without a marker"
        yield result


def dataset_folder(job: PreprocessingJob) -> Path:
    """Return the directory in which the dataset is assembled."""
    return job.build / "dataset"


def assemble(
    job: PreprocessingJob, tokenizer: Tokenizer, tasks: list[Task], identity: JobFingerprint
) -> Manifest:
    """Move all files to their final names and write the manifest. An interrupted call can be repeated."""
    target = dataset_folder(job)
    target.mkdir(exist_ok=True)
    totals = TaskTotals(load_results(job, tasks))
    records = _collect_shards(job, tasks)
    dtype = token_dtype(tokenizer.vocab_size)
    broken = [record.name for record in records if not is_intact(record, target / record.name, dtype.itemsize)]
    if broken:
        raise UserError(f"{target / broken[0]}: damaged; rm -r {job.build} and run the command again")
    atomic_io.write_lines(target / PIECES_NAME, _piece_lines(job, tasks))
    listings = [PIECES_NAME, REJECTED_NAME, "sources.jsonl"]
    rejected = _listing(job, tasks, load_rejections) if totals.left_out["rejected"] else ()
    atomic_io.write_lines(target / REJECTED_NAME, rejected)
    if job.filters:
        listings.append(FILTERED_NAME)
        atomic_io.write_lines(target / FILTERED_NAME, _listing(job, tasks, load_filtered))
    atomic_io.write_lines(target / "sources.jsonl", identity.lines())
    tokenizer.save(target)
    manifest = Manifest(
        **identity.plan,
        vocab_size=tokenizer.vocab_size,
        end_of_text_id=tokenizer.end_of_text_id,
        tokenizer_source=tokenizer.hub_source,
        dtype=dtype.name,
        shards=tuple(records),
        left_out=dict(totals.left_out),
        listings={name: atomic_io.sha256_of(target / name) for name in listings},
        repaired=totals.repaired,
        text_changes=totals.text_changes.recorded(tokenizer),
    )
    manifest.save(target)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    atomic_io.rename_directory(target, job.output)
    shutil.rmtree(job.build)
    return Manifest.load(job.output)


def _collect_shards(job: PreprocessingJob, tasks: list[Task]) -> list[ShardRecord]:
    """Move the shards to their final names, and return their records by split, in the order of the tasks."""
    records: dict[str, list[ShardRecord]] = {split: [] for split in SPLITS}
    for task, result in zip(tasks, load_results(job, tasks), strict=True):
        for record in result.shards:
            found = records[record.split]
            name = shard_name(record.split, len(found))
            _move(final_folder(job, task) / record.name, dataset_folder(job) / name)
            found.append(replace(record, name=name))
    return [record for split in SPLITS for record in records[split]]


def _move(source: Path, target: Path) -> None:
    """Rename the files of a shard, except those that an interrupted run has already renamed."""
    for suffix in SHARD_SUFFIXES:
        path = source.with_name(source.name + suffix)
        if path.exists():
            path.replace(target.with_name(target.name + suffix))


def _located(job: PreprocessingJob, tasks: list[Task]) -> Iterator[tuple[Piece, int]]:
    """Yield the pieces of all tasks, each with the number of lines that precede it in its file."""
    path, before = "", 0  # the pieces of a file follow each other
    for task, result in zip(tasks, load_results(job, tasks), strict=True):
        for piece, lines in zip(task.pieces, result.lines, strict=True):
            if piece.path != path:
                path, before = piece.path, 0
            yield piece, before
            before += lines


def _piece_lines(job: PreprocessingJob, tasks: list[Task]) -> Iterator[str]:
    for piece, first_line in _located(job, tasks):
        yield json.dumps({"path": _path(job, piece), "format": piece.format, "first_line": first_line})


def _path(job: PreprocessingJob, piece: Piece) -> str:
    """Return the path to record for a piece: "-" for standard input, whose spool file is deleted."""
    return STANDARD_INPUT if STANDARD_INPUT in job.inputs else piece.path


def _listing(
    job: PreprocessingJob, tasks: list[Task], load: Callable[[PreprocessingJob, Task], Iterable[dict[str, Any]]]
) -> Iterator[str]:
    items = (item for task in tasks for item in load(job, task))
    for (piece, first_line), item in matched(items, itemgetter("piece"), _located(job, tasks)):
        yield json.dumps(
            {
                "file": _path(job, piece),
                "line": first_line + item["line"],
                "lines": item["lines"],
                "offset": item["offset"],
                "bytes": item["bytes"],
                "reason": item["reason"],
            }
        )
