"""A preprocessing job, the tasks it is cut into, and the results of finished tasks.

OUTPUT.partial/plan.json               the plan of the job: only a job with the same plan resumes it
               sources.jsonl           the sources of the corpus
               tokenizer/              a copy, so that all workers use the same tokenizer
               running/tasks-00007-…/  a running attempt at a task; each attempt has a new name
               running/stop-…          marker file that stops the workers of one driver
               tasks/00007/            a finished task: shards, rejected.jsonl, filtered.jsonl, done.json
               unique/00007/           its shards without duplicates, if it had any
               dataset/                the dataset while it is assembled; renamed to OUTPUT
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpt2dist import json_files
from gpt2dist.corpus import Piece, Reading, Source, cut
from gpt2dist.corpus.damage import DamageLimits
from gpt2dist.dataset.manifest import FILTERED, RECORD, ShardRecord
from gpt2dist.dataset.megatron_format import HEADER
from gpt2dist.dataset.provenance import ORIGIN
from gpt2dist.dataset.provenance import SUFFIX as ORIGINS_SUFFIX
from gpt2dist.errors import UserError
from gpt2dist.output_paths import resolved
from gpt2dist.preprocessing.atomic_output import MARKER, Counts
from gpt2dist.tokenizer.round_trip import TextChanges

PLAN_VERSION = 3
"""Version of the plan; incremented when the same job would be cut or written differently."""

STANDARD_INPUT = "-"
SPLITS = ("train", "val")
REJECTED_NAME, FILTERED_NAME = "rejected.jsonl", "filtered.jsonl"
SHARD_SUFFIXES = (".bin", ".idx", ORIGINS_SUFFIX)
TASKS = 256
MIN_TASK_BYTES, MAX_TASK_BYTES = 8 << 20, 1 << 30
"""Bounds on the size of a task; within them a corpus is cut into about `TASKS` tasks."""

MIN_MEMORY = 512 << 20


@dataclass(frozen=True)
class PreprocessingJob:
    """A preprocessing job. It is hashable, and equal in all workers of a driver."""

    inputs: tuple[str, ...]
    """Files, directories, globs, URLs and datasets; see `corpus.discover`."""
    tokenizer: str
    """A directory with tokenizer.json, that file, or a name on the Hugging Face hub."""
    output: Path
    """The dataset directory to create. A symbolic link is resolved, so that `build` is on the same disk."""
    lossy: bool = False
    """Whether to accept a tokenizer that may lose some of the text."""
    format: str | None = None
    """The format of all inputs, a name or `package.module:attribute`; None: inferred from their names."""
    suffixes: tuple[str, ...] | None = None
    """Suffixes of the files to read from directories; None: those of all readers."""
    reading: Reading = field(default_factory=Reading)
    """Options for reading documents."""
    val_fraction: float = 0.0
    """Fraction of the documents in the validation split, in [0, 1)."""
    shard_tokens: int = 1 << 30
    """Maximum tokens in a shard; a longer document gets its own shard."""
    min_chars: int = 0
    """Shorter documents are skipped."""
    max_chars: int | None = None
    """Longer documents are skipped."""
    normalizer: str | None = None
    """"module:function", str → str, applied to each document."""
    filters: tuple[str, ...] = ()
    """"module:function" each, str → str or `Skip`, in this order, after the normalizer."""
    deduplicate: bool = False
    """Whether to keep only the first of equal documents."""
    on_bad_text: str = "replace"
    """"replace" substitutes U+FFFD for invalid Unicode, "fail" stops the job."""
    max_bad_fraction: float = 0.001
    """Fraction of the documents that may be unreadable before the job fails, in [0, 1]."""
    max_replaced_fraction: float = 0.001
    """Fraction of the characters that may be replaced by U+FFFD before the job fails, in [0, 1]."""
    workers: int = 1
    """The number of worker processes; ignored if `scheduler` is set."""
    scheduler: str | None = None
    """Address of a Dask scheduler whose workers see the corpus and the output under the same paths."""
    memory_per_worker: int = 1 << 30
    """Bytes of memory that a worker may use."""
    encoder: str = ""
    """Name of the encoder chosen for this corpus."""
    tokenizer_fingerprint: str = ""
    """Fingerprint of the tokenizer that the driver loaded."""
    driver: str = ""
    """Unique identifier of the driver process; a job array runs several drivers for one job."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "output", resolved(self.output))

    @property
    def build(self) -> Path:
        """The build directory, OUTPUT.partial."""
        return self.output.with_name(self.output.name + ".partial")

    @property
    def submissions(self) -> Path:
        """The directory where `gpt2dist submit` keeps the files of its jobs."""
        return self.output.with_name(self.output.name + ".submission")

    @property
    def running(self) -> Path:
        """The directory of running attempts."""
        return self.build / "running"

    @property
    def stop(self) -> Path:
        """Marker file that the driver creates to stop its workers."""
        return self.running / f"stop-{self.driver}"

    @property
    def options(self) -> dict[str, Any]:
        """The options that determine the content of the shards."""
        names = ("val_fraction", "shard_tokens", "min_chars", "max_chars", "normalizer", "deduplicate")
        chosen = {name: getattr(self, name) for name in names}
        return asdict(self.reading) | chosen | {"filter": list(self.filters) or None}

    def check(self) -> None:
        """Check the options.

        Raises:
            UserError: An option is out of range; the message names it.
        """
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val-fraction {self.val_fraction}: must be at least 0 and below 1, such as 0.01")
        DamageLimits(self.on_bad_text, self.max_bad_fraction, self.max_replaced_fraction).check()
        for name in ("workers", "shard_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.min_chars < 0 or (self.max_chars is not None and self.max_chars < max(1, self.min_chars)):
            raise UserError(
                f"--min-chars {self.min_chars}, --max-chars {self.max_chars}: no document satisfies both; "
                "they must be positive, and the second not below the first"
            )
        if self.memory_per_worker < MIN_MEMORY:
            raise UserError(
                f"--memory-per-worker: {self.memory_per_worker >> 20} MiB is too little, a worker needs "
                f"{MIN_MEMORY >> 20} MiB for its libraries and buffers"
            )


@dataclass(frozen=True)
class Task:
    """Part of the corpus that one worker turns into shards."""

    number: int
    first_piece: int
    """The index of its first piece among the pieces of the corpus."""
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """The number of source bytes."""
        return sum(piece.size for piece in self.pieces)


def plan_tasks(sources: Iterable[Source], encoding: str | None = None) -> list[Task]:
    """Cut a corpus into tasks. The result depends on the arguments alone; `encoding` is as for `corpus.cut`."""
    sources = list(sources)
    total = sum(source.size for source in sources)
    target = min(max(total // TASKS, MIN_TASK_BYTES), MAX_TASK_BYTES)
    groups: list[list[Piece]] = []
    room = 0
    for source in sources:
        for piece in cut(source, target, encoding):
            # A piece of unknown size (0) may be large, so it starts a new group.
            if not groups or piece.size > room or not piece.size:
                groups.append([])
                room = target
            groups[-1].append(piece)
            room -= piece.size
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
    """Yield the record of each document that a finished task rejected.

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
    folder, counted = task_folder(job, task), 0
    path = folder / name
    keys = {"piece": int, "line": int, "lines": int, "offset": int, "bytes": int, "reason": str}
    for record in json_files.require_lines(path, keys, _redo(folder)):
        _require_piece(task, record["piece"], path)
        counted += record["lines"]
        yield record
    if expected is not None and counted != expected:
        kind = name.removesuffix(".jsonl")
        raise UserError(
            f"{path}: has {counted:,} {kind} documents, and {folder / MARKER} says {expected:,}; {_redo(folder)}"
        )


def load_replaced_examples(job: PreprocessingJob, task: Task) -> Iterator[ReplacedExample]:
    """Yield the first documents of a task with replaced characters; none if it is not finished.

    Raises:
        UserError: Its marker file is damaged.
    """
    folder = task_folder(job, task)
    result = load_result(folder)
    for example in result.examples if result else ():
        _require_piece(task, example.piece, folder / MARKER)
        yield example


def _require_piece(task: Task, number: int, path: Path) -> None:
    if not 0 <= number - task.first_piece < len(task.pieces):
        raise UserError(f"{path}: names piece {number}, which is not in this task; {_redo(path.parent)}")


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
