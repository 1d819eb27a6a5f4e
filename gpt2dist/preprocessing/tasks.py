"""What preprocessing has to do: the job, the tasks that it is cut into, and what a finished task leaves behind.

OUTPUT.partial/plan.json          what the job is: a rerun with the same plan goes on, another is refused
               sources.jsonl      the files of the corpus
               tokenizer/         a copy, so that all workers have the same
               running/00007-…/   a task at work; its name is new for each attempt
               running/stop-…     tells the workers of one driver to leave their tasks
               tasks/00007/       a finished one: shards, rejected.jsonl, done.json
               unique/00007/      its shards without duplicates, if it had some
               dataset/           the result as it comes together; renamed to OUTPUT
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpt2dist.corpus import DEFAULT_SUFFIXES, Piece, Reading, Source, cut
from gpt2dist.dataset.manifest import ShardRecord
from gpt2dist.dataset.megatron_format import HEADER
from gpt2dist.dataset.provenance import ORIGIN
from gpt2dist.dataset.provenance import SUFFIX as ORIGINS_SUFFIX
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.atomic_output import MARKER, Counts

PLAN_VERSION = 2
"""Changes when the same job would be cut or written in another way."""

STANDARD_INPUT = "-"
SPLITS = ("train", "val")
SHARD_SUFFIXES = (".bin", ".idx", ORIGINS_SUFFIX)
TASKS = 256
MIN_TASK_BYTES, MAX_TASK_BYTES = 8 << 20, 1 << 30
"""A corpus is cut into about `TASKS` tasks, where that gives tasks of such a size."""

MIN_MEMORY = 512 << 20


@dataclass(frozen=True)
class PreprocessingJob:
    """What is to be done. Hashable, and the same in every process that works on it."""

    inputs: tuple[str, ...]
    """Files, directories, globs, URLs, datasets; see `corpus.discover`."""
    tokenizer: str
    """A directory with tokenizer.json, or a name on the hub."""
    output: Path
    """The dataset directory to make."""
    format: str | None = None
    """What the inputs are, where their names do not tell."""
    suffixes: tuple[str, ...] = DEFAULT_SUFFIXES
    """What to take from directories."""
    reading: Reading = field(default_factory=Reading)
    """How documents are read."""
    val_fraction: float = 0.0
    """Share of the documents that go to the split "val", in [0, 1)."""
    shard_tokens: int = 1 << 30
    """Most tokens in a shard; a longer document has a shard of its own."""
    min_chars: int = 0
    """Shorter documents are left out."""
    max_chars: int | None = None
    """Longer documents are left out."""
    normalizer: str | None = None
    """"module:function", str → str, applied to each document."""
    deduplicate: bool = False
    """Whether only the first of equal documents is kept."""
    on_bad_text: str = "replace"
    """"replace" puts U+FFFD for what is no Unicode, "fail" stops the job."""
    max_bad_fraction: float = 0.001
    """Share of the documents that may be unreadable before the job fails, in [0, 1]."""
    workers: int = 1
    """Processes, where no scheduler is named."""
    scheduler: str | None = None
    """Address of a Dask scheduler, whose workers see the corpus and the output under the same paths."""
    memory_per_worker: int = 1 << 30
    """Bytes of memory that a worker may take."""
    encoder: str = ""
    """Name of the encoder that was chosen for this corpus."""
    tokenizer_fingerprint: str = ""
    """Of the tokenizer, as it was found."""
    driver: str = ""
    """Of several processes that drive the job together, as an array of a batch system does: which one."""

    @property
    def build(self) -> Path:
        """Where the work is done."""
        return self.output.with_name(self.output.name + ".partial")

    @property
    def submissions(self) -> Path:
        """Where `gpt2dist submit` keeps what belongs to its jobs."""
        return self.output.with_name(self.output.name + ".submission")

    @property
    def running(self) -> Path:
        """Where the work is that is not finished."""
        return self.build / "running"

    @property
    def stop(self) -> Path:
        """A file that is made when the driver of these workers has given up."""
        return self.running / f"stop-{self.driver}"

    @property
    def options(self) -> dict[str, Any]:
        """The options that shape the shards."""
        names = ("val_fraction", "shard_tokens", "min_chars", "max_chars", "normalizer", "deduplicate")
        return asdict(self.reading) | {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """Checks the options.

        Raises:
            UserError: One is out of range; the message names it.
        """
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val-fraction {self.val_fraction}: must be at least 0 and below 1, such as 0.01")
        if not 0 <= self.max_bad_fraction <= 1:
            raise UserError(f"--max-bad-fraction {self.max_bad_fraction}: must be between 0 and 1, such as 0.001")
        for name in ("workers", "shard_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.min_chars < 0 or (self.max_chars is not None and self.max_chars < max(1, self.min_chars)):
            raise UserError(
                f"--min-chars {self.min_chars}, --max-chars {self.max_chars}: no document is both; "
                "they must be positive, and the second not below the first"
            )
        if self.memory_per_worker < MIN_MEMORY:
            raise UserError(
                f"--memory-per-worker: {self.memory_per_worker >> 20} MiB is too little, a worker needs "
                f"{MIN_MEMORY >> 20} MiB for its libraries and buffers"
            )


@dataclass(frozen=True)
class Task:
    """A part of the corpus that one worker turns into shards."""

    number: int
    first_piece: int
    """The number of its first piece among all."""
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes of source."""
        return sum(piece.size for piece in self.pieces)


def plan_tasks(sources: Iterable[Source]) -> list[Task]:
    """Cuts a corpus into tasks; depends on the files and their sizes alone."""
    sources = list(sources)
    total = sum(source.size for source in sources)
    target = min(max(total // TASKS, MIN_TASK_BYTES), MAX_TASK_BYTES)
    groups: list[list[Piece]] = []
    room = 0
    for source in sources:
        for piece in cut(source, target):
            if not groups or piece.size > room or not piece.size:  # a size that nobody knows may be any
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
class TaskResult:
    """What the marker of a finished task says."""

    shards: tuple[ShardRecord, ...]
    left_out: dict[str, int]
    repaired: int
    lines: tuple[int, ...]
    """Lines or rows in each piece."""

    @property
    def documents(self) -> int:
        """Documents in the shards."""
        return sum(record.documents for record in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens in the shards."""
        return sum(record.tokens for record in self.shards)

    @property
    def seen(self) -> int:
        """Documents of the corpus."""
        return self.documents + sum(self.left_out.values())

    def counts(self, task: Task) -> Counts:
        """The work that it was."""
        return Counts(task.size, self.tokens, self.documents, self.left_out["rejected"])


def task_folder(job: PreprocessingJob, task: Task) -> Path:
    """Where a finished task lies."""
    return job.build / "tasks" / f"{task.number:05d}"


def unique_folder(job: PreprocessingJob, task: Task) -> Path:
    """Where its shards lie without duplicates, if it had some."""
    return job.build / "unique" / f"{task.number:05d}"


def final_folder(job: PreprocessingJob, task: Task) -> Path:
    """The one of the two that counts."""
    unique = unique_folder(job, task)
    return unique if unique.exists() else task_folder(job, task)


def shard_name(split: str, number: int) -> str:
    """The name of a shard, within a task or a dataset."""
    return f"{split}-{number:05d}"


def load_result(folder: Path) -> TaskResult | None:
    """The result of a task, or None where it is not finished."""
    try:
        content = json.loads((folder / MARKER).read_bytes())
    except FileNotFoundError:
        return None
    shards = tuple(ShardRecord(**record) for record in content.pop("shards"))
    return TaskResult(shards, lines=tuple(content.pop("lines")), **content)


def is_intact(record: ShardRecord, prefix: Path, itemsize: int) -> bool:
    """Whether the files of a shard are there with the sizes that its record implies."""
    sizes = {
        ".bin": record.tokens * itemsize,
        ".idx": HEADER.size + 20 * record.documents + 8,
        ORIGINS_SUFFIX: ORIGIN.itemsize * record.documents,
    }
    paths = {suffix: prefix.with_name(prefix.name + suffix) for suffix in sizes}
    return all(path.is_file() and path.stat().st_size == sizes[suffix] for suffix, path in paths.items())
