"""The tasks that a preprocessing job is cut into, and the results of finished tasks.

OUTPUT.partial/plan.json               the plan of the job: only a job with the same plan resumes it
               sources.jsonl           the sources of the corpus
               tokenizer/              a copy, so that all workers use the same tokenizer
               running/tasks-00007-…/  a running attempt at a task; each attempt has a new name
               running/stop-…          marker file that stops the workers of one driver
               tasks/00007/            a finished task: shards, rejected.jsonl, filtered.jsonl, done.json
               duplicates/             which documents repeat an earlier one; see deduplication.py
               unique/00007/           its shards without duplicates, if it had any
               worklist/…/             the sources as they are cut into tasks; see corpus_plan.py
               dataset/                the dataset while it is assembled; renamed to OUTPUT
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2dist import json_files
from gpt2dist.corpus import Piece, Source, cut
from gpt2dist.dataset.manifest import FILTERED, RECORD, ShardRecord
from gpt2dist.dataset.megatron_format import HEADER
from gpt2dist.dataset.provenance import ORIGIN
from gpt2dist.dataset.provenance import SUFFIX as ORIGINS_SUFFIX
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.atomic_output import MARKER, Counts
from gpt2dist.preprocessing.job import PreprocessingJob
from gpt2dist.preprocessing.pieces import StoredPieces
from gpt2dist.tokenizer.round_trip import TextChanges

PLAN_VERSION = 3
"""Version of the plan; incremented when the same job would be cut or written differently."""

SPLITS = ("train", "val")
REJECTED_NAME, FILTERED_NAME = "rejected.jsonl", "filtered.jsonl"
SHARD_SUFFIXES = (".bin", ".idx", ORIGINS_SUFFIX)
TASKS = 256
MIN_TASK_BYTES, MAX_TASK_BYTES = 8 << 20, 1 << 30
"""Bounds on the size of a task; within them a corpus is cut into about `TASKS` tasks."""


@dataclass(frozen=True)
class Task:
    """Part of the corpus that one worker turns into shards."""

    number: int
    first_piece: int
    """The index of its first piece among the pieces of the corpus."""
    pieces: StoredPieces | tuple[Piece, ...]
    """Its pieces. `StoredPieces` are read from a file when they are needed."""

    @property
    def size(self) -> int:
        """The number of source bytes."""
        if isinstance(self.pieces, StoredPieces):
            return self.pieces.size
        return sum(piece.size for piece in self.pieces)


class TaskBounds:
    """Decision, piece by piece, where the next task of a corpus begins. It depends on the sizes alone.

    Args:
        total: Bytes of the corpus.

    Attributes:
        target: Bytes of a task, and the size for `corpus.cut`.
    """

    def __init__(self, total: int):
        self.target = min(max(total // TASKS, MIN_TASK_BYTES), MAX_TASK_BYTES)
        self._room = -1

    def begins(self, piece: Piece) -> bool:
        """Return whether the next piece begins a task."""
        # A piece of unknown size (0) may be large, so it begins a new task.
        begins = piece.size > self._room or not piece.size
        if begins:
            self._room = self.target
        self._room -= piece.size
        return begins


def plan_tasks(sources: Iterable[Source], encoding: str | None = None) -> list[Task]:
    """Cut a corpus into tasks. The result depends on the arguments alone; `encoding` is as for `corpus.cut`.

    It holds all pieces in memory; `CorpusPlan.write` stores the same tasks in a file.
    """
    sources = list(sources)
    bounds = TaskBounds(sum(source.size for source in sources))
    groups: list[list[Piece]] = []
    for source in sources:
        for piece in cut(source, bounds.target, encoding):
            if bounds.begins(piece):
                groups.append([])
            groups[-1].append(piece)
    tasks: list[Task] = []
    first = 0
    for group in groups:
        tasks.append(Task(len(tasks), first, tuple(group)))
        first += len(group)
    return tasks


@dataclass(frozen=True)
class ReplacedExample:
    """A document in which characters were replaced by U+FFFD; `piece` is an index as in `Task.first_piece`."""

    piece: int
    line: int
    offset: int
    excerpt: str


@dataclass(frozen=True)
class TaskResult:
    """Result of a finished task, as stored in its marker file."""

    shards: tuple[ShardRecord, ...]
    left_out: dict[str, int]
    repaired: int
    lines: tuple[int, ...]
    """The number of lines or rows in each piece."""
    empty: tuple[int, ...] = ()
    """The number of empty documents in each piece; () in results of older versions."""
    characters: int = 0
    replaced: int = 0
    """Numbers of characters; see `Counts`."""
    examples: tuple[ReplacedExample, ...] = ()
    """The first documents with replaced characters."""
    text_changes: TextChanges = field(default_factory=TextChanges)
    """How the tokens differ from the text."""

    def __post_init__(self) -> None:
        if "rejected" not in self.left_out:
            raise ValueError("left_out.rejected is missing")
        if self.repaired and not self.examples:
            raise ValueError("examples is empty, and documents were repaired")
        for record in self.shards:
            for mistake in record.mistakes():
                raise ValueError(f"{record.name!r:.60}: {mistake}")
            if not {"bin", "idx", "origins"} <= record.sha256.keys():
                raise ValueError(f"{record.name} lacks one of sha256.bin, sha256.idx and sha256.origins")

    @property
    def documents(self) -> int:
        """The number of documents in the shards."""
        return sum(record.documents for record in self.shards)

    @property
    def tokens(self) -> int:
        """The number of tokens in the shards."""
        return sum(record.tokens for record in self.shards)

    @property
    def seen(self) -> int:
        """The number of documents that the task has read, including skipped ones but not records without text."""
        return self.documents + sum(self.left_out.values()) - sum(self.records.values())

    @property
    def filtered(self) -> int:
        """The number of documents that filters skipped."""
        return sum(count for reason, count in self.left_out.items() if reason.startswith(FILTERED))

    @property
    def records(self) -> dict[str, int]:
        """The number of records that hold no text, by kind."""
        found = self.left_out.items()
        return {key.removeprefix(RECORD): count for key, count in found if key.startswith(RECORD)}

    def counts(self, task: Task) -> Counts:
        """Return the work done for `task`."""
        rejected = self.left_out["rejected"]
        skipped = sum(self.left_out.values()) - rejected
        return Counts(task.size, self.tokens, self.documents, rejected, self.characters, self.replaced, skipped)


class TaskTotals:
    """Sums over the results of tasks, which are used one at a time.

    Attributes:
        seen, documents, characters, replaced, repaired: Sums of these attributes of `TaskResult`.
        left_out: Number of documents and records that were omitted, by reason.
        records: Number of records that hold no text, by kind.
        splits: The splits that have documents.
        text_changes: How the tokens differ from the text.
    """

    def __init__(self, results: Iterable[TaskResult]):
        self.seen = self.documents = self.characters = self.replaced = self.repaired = 0
        self.left_out, self.records, self.splits = Counter[str](), Counter[str](), set[str]()
        changes = []
        for result in results:
            for name in ("seen", "documents", "characters", "replaced", "repaired"):
                setattr(self, name, getattr(self, name) + getattr(result, name))
            self.left_out.update(result.left_out)
            self.records.update(result.records)
            self.splits.update(record.split for record in result.shards)
            changes.append(result.text_changes)
        self.text_changes = TextChanges.total(changes)


def task_folder(job: PreprocessingJob, task: Task) -> Path:
    """Return the folder of a finished task."""
    return job.build / "tasks" / f"{task.number:05d}"


def unique_folder(job: PreprocessingJob, task: Task) -> Path:
    """Return the folder of the deduplicated shards of a task, which exists only if it had duplicates."""
    return job.build / "unique" / f"{task.number:05d}"


def final_folder(job: PreprocessingJob, task: Task) -> Path:
    """Return the folder to assemble from: the unique folder if it exists, otherwise the task folder."""
    unique = unique_folder(job, task)
    return unique if unique.exists() else task_folder(job, task)


def shard_name(split: str, number: int) -> str:
    """Return the name of a shard within a task or dataset, such as "train-00003"."""
    return f"{split}-{number:05d}"


def load_result(folder: Path) -> TaskResult | None:
    """Return the result of the task in `folder`, or None if it is not finished.

    Raises:
        UserError: Its marker file is damaged.
    """
    path = folder / MARKER
    try:
        return json_files.build(TaskResult, json_files.load(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {json_files.reason(error)}; {_redo(folder)}") from None


def _redo(folder: Path) -> str:
    return f"remove {folder} and run the command again, which repeats that part"


def load_rejections(job: PreprocessingJob, task: Task) -> Iterator[dict[str, Any]]:
    """Yield the record of each document that a finished task rejected, in the order of its pieces.

    Raises:
        UserError: Their file is damaged, or their number differs from the task's count.
    """
    result = load_result(task_folder(job, task))
    yield from _load_listing(job, task, REJECTED_NAME, result.left_out["rejected"] if result else None)


def load_filtered(job: PreprocessingJob, task: Task) -> Iterator[dict[str, Any]]:
    """Yield the record of each document that the filters of a finished task skipped.

    Raises:
        UserError: As for `load_rejections`.
    """
    result = load_result(task_folder(job, task))
    yield from _load_listing(job, task, FILTERED_NAME, result.filtered if result else None)


def _load_listing(job: PreprocessingJob, task: Task, name: str, expected: int | None) -> Iterator[dict[str, Any]]:
    folder, counted, piece = task_folder(job, task), 0, task.first_piece
    path = folder / name
    keys = {"piece": int, "line": int, "lines": int, "offset": int, "bytes": int, "reason": str}
    for record in json_files.require_lines(path, keys, _redo(folder)):
        piece = _require_piece(task, piece, record["piece"], path)
        counted += record["lines"]
        yield record
    if expected is not None and counted != expected:
        kind = name.removesuffix(".jsonl")
        raise UserError(
            f"{path}: has {counted:,} {kind} documents, and {folder / MARKER} says {expected:,}; {_redo(folder)}"
        )


def load_replaced_examples(job: PreprocessingJob, task: Task) -> Iterator[ReplacedExample]:
    """Yield the first documents of a task with replaced characters, in order; none if it is not finished.

    Raises:
        UserError: Its marker file is damaged.
    """
    folder = task_folder(job, task)
    result, piece = load_result(folder), task.first_piece
    for example in result.examples if result else ():
        piece = _require_piece(task, piece, example.piece, folder / MARKER)
        yield example


def _require_piece(task: Task, before: int, number: int, path: Path) -> int:
    """Return the number of a piece, after checking that it is in the task and not before another one."""
    if not 0 <= number - task.first_piece < len(task.pieces):
        raise UserError(f"{path}: names piece {number}, which is not in this task; {_redo(path.parent)}")
    if number < before:
        raise UserError(f"{path}: names piece {number} after piece {before}; {_redo(path.parent)}")
    return number


def is_intact(record: ShardRecord, prefix: Path, itemsize: int) -> bool:
    """Return whether the files of a shard exist with the sizes that its record implies."""
    sizes = {
        ".bin": record.tokens * itemsize,
        ".idx": HEADER.size + 20 * record.documents + 8,
        ORIGINS_SUFFIX: ORIGIN.itemsize * record.documents,
    }
    paths = {suffix: prefix.with_name(prefix.name + suffix) for suffix in sizes}
    return all(
        json_files.is_file(path) and path.stat().st_size == sizes[suffix] for suffix, path in paths.items()
    )
