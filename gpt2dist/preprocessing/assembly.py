"""Assemble the outputs of finished preprocessing tasks into a dataset directory."""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io
from gpt2dist.corpus import Piece
from gpt2dist.dataset.manifest import Manifest, ShardRecord
from gpt2dist.dataset.megatron_format import token_dtype
from gpt2dist.dataset.provenance import PIECES_NAME
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.build import JobFingerprint
from gpt2dist.preprocessing.tasks import (
    FILTERED_NAME,
    REJECTED_NAME,
    SHARD_SUFFIXES,
    SPLITS,
    STANDARD_INPUT,
    PreprocessingJob,
    Task,
    TaskResult,
    final_folder,
    is_intact,
    load_filtered,
    load_rejections,
    load_result,
    shard_name,
)
from gpt2dist.tokenizer.round_trip import TextChanges
from gpt2dist.tokenizer.tokenizer import Tokenizer


def load_results(job: PreprocessingJob, tasks: list[Task]) -> list[TaskResult]:
    """Return the results of `tasks`, which must all be finished; deduplicated ones where they exist."""
    results = [load_result(final_folder(job, task)) for task in tasks]
    assert all(results), "a task without a marker"
    return [result for result in results if result is not None]


def dataset_folder(job: PreprocessingJob) -> Path:
    """Return the directory in which the dataset is assembled."""
    return job.build / "dataset"


def assemble(
    job: PreprocessingJob, tokenizer: Tokenizer, tasks: list[Task], identity: JobFingerprint
) -> Manifest:
    """Move all files to their final names and write the manifest. An interrupted call can be repeated."""
    target, results = dataset_folder(job), load_results(job, tasks)
    target.mkdir(exist_ok=True)
    records = _collect_shards(job, tasks, results)
    dtype = token_dtype(tokenizer.vocab_size)
    broken = [record.name for record in records if not is_intact(record, target / record.name, dtype.itemsize)]
    if broken:
        raise UserError(f"{target / broken[0]}: damaged; rm -r {job.build} and run the command again")
    first_lines = _first_lines(tasks, results)
    atomic_io.write_lines(target / PIECES_NAME, _piece_lines(job, tasks, first_lines))
    listings = [PIECES_NAME, REJECTED_NAME, "sources.jsonl"]
    atomic_io.write_lines(target / REJECTED_NAME, _listing(job, tasks, first_lines, load_rejections))
    if job.filters:
        listings.append(FILTERED_NAME)
        atomic_io.write_lines(target / FILTERED_NAME, _listing(job, tasks, first_lines, load_filtered))
    atomic_io.write_text(target / "sources.jsonl", identity.listing)
    tokenizer.save(target)
    left_out: dict[str, int] = defaultdict(int)
    for result in results:
        for reason, count in result.left_out.items():
            left_out[reason] += count
    manifest = Manifest(
        **identity.plan,
        vocab_size=tokenizer.vocab_size,
        end_of_text_id=tokenizer.end_of_text_id,
        tokenizer_source=tokenizer.hub_source,
        dtype=dtype.name,
        shards=tuple(records),
        left_out=dict(left_out),
        listings={name: atomic_io.sha256_of(target / name) for name in listings},
        repaired=sum(result.repaired for result in results),
        text_changes=TextChanges.total(result.text_changes for result in results).recorded(tokenizer),
    )
    manifest.save(target)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    atomic_io.rename_directory(target, job.output)
    shutil.rmtree(job.build)
    return Manifest.load(job.output)


def _collect_shards(job: PreprocessingJob, tasks: list[Task], results: list[TaskResult]) -> list[ShardRecord]:
    records = []
    for split in SPLITS:
        number = 0
        for task, result in zip(tasks, results, strict=True):
            for record in result.shards:
                if record.split == split:
                    name = shard_name(split, number)
                    _move(final_folder(job, task) / record.name, dataset_folder(job) / name)
                    records.append(replace(record, name=name))
                    number += 1
    return records


def _move(source: Path, target: Path) -> None:
    """Rename the files of a shard, except those that an interrupted run has already renamed."""
    for suffix in SHARD_SUFFIXES:
        path = source.with_name(source.name + suffix)
        if path.exists():
            path.replace(target.with_name(target.name + suffix))


def _first_lines(tasks: list[Task], results: list[TaskResult]) -> list[int]:
    """Return, for each piece, the number of lines that precede it in its file."""
    before: dict[str, int] = defaultdict(int)
    first_lines = []
    for task, result in zip(tasks, results, strict=True):
        for piece, lines in zip(task.pieces, result.lines, strict=True):
            first_lines.append(before[piece.path])
            before[piece.path] += lines
    return first_lines


def _piece_lines(job: PreprocessingJob, tasks: list[Task], first_lines: list[int]) -> Iterable[str]:
    pieces = (piece for task in tasks for piece in task.pieces)
    for piece, first_line in zip(pieces, first_lines, strict=True):
        yield json.dumps({"path": _path(job, piece), "format": piece.format, "first_line": first_line})


def _path(job: PreprocessingJob, piece: Piece) -> str:
    """Return the path to record for a piece: "-" for standard input, whose spool file is deleted."""
    return STANDARD_INPUT if Path(piece.path).parent == job.build else piece.path


def _listing(
    job: PreprocessingJob,
    tasks: list[Task],
    first_lines: list[int],
    load: Callable[[PreprocessingJob, Task], Iterable[dict[str, Any]]],
) -> Iterable[str]:
    for task in tasks:
        for item in load(job, task):
            number = item["piece"]
            yield json.dumps(
                {
                    "file": _path(job, task.pieces[number - task.first_piece]),
                    "line": first_lines[number] + item["line"],
                    "lines": item["lines"],
                    "offset": item["offset"],
                    "bytes": item["bytes"],
                    "reason": item["reason"],
                }
            )
