"""One task of `prepare`: a part of the corpus, read, tokenised and written to shards by one worker."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2dist.data.corpus import (
    DEFAULT_SUFFIXES,
    Document,
    Piece,
    Rejected,
    SourceFile,
    cut,
    line_in_file,
    read,
)
from gpt2dist.data.manifest import ShardRecord, write_durably
from gpt2dist.data.shards import HEADER, ShardWriter, token_dtype
from gpt2dist.data.tokenizer import Tokenizer, describe_characters

SPLITS = ("train", "val")
MIN_TASK_BYTES, MAX_TASK_BYTES = 4 << 20, 1 << 30
BATCH_BYTES, BATCH_DOCUMENTS = 1 << 20, 4096
"""What is tokenised at once: bounds the memory of a worker beside its largest document."""


@dataclass(frozen=True)
class Job:
    """What `prepare` is to do."""

    inputs: tuple[str, ...]
    """Files, directories and globs."""
    tokenizer: str
    """A directory with tokenizer.json, or a name on the hub."""
    output: Path
    """The dataset directory to make."""
    text_field: str = "text"
    val_fraction: float = 0.0
    """Share of the documents that go to the split "val", in [0, 1)."""
    workers: int = 1
    shard_tokens: int = 1 << 30
    """Most tokens in a shard; a longer document has a shard of its own."""
    max_bad_fraction: float = 0.001
    """Share of the documents that may be unreadable before the job fails, in [0, 1]."""
    suffixes: tuple[str, ...] = DEFAULT_SUFFIXES
    """What to take from directories."""

    @property
    def build(self) -> Path:
        """Where the work is done."""
        return self.output.with_name(self.output.name + ".partial")

    @property
    def options(self) -> dict[str, Any]:
        """The options that shape the shards."""
        names = ("text_field", "val_fraction", "shard_tokens")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Task:
    """A part of the corpus that one worker turns into shards."""

    number: int
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes of source."""
        return sum(piece.end - piece.start for piece in self.pieces)


@dataclass
class Counts:
    """Work done so far, including that of an interrupted run."""

    bytes: int = 0
    """Of the corpus files."""
    tokens: int = 0
    documents: int = 0
    rejected: int = 0


def plan_tasks(sources: list[SourceFile]) -> list[Task]:
    """Cuts a corpus into tasks; depends on the files and their sizes alone."""
    total = sum(source.size for source in sources)
    target = min(max(total // 64, MIN_TASK_BYTES), MAX_TASK_BYTES)
    groups: list[list[Piece]] = []
    room = 0
    for source in sources:
        for piece in cut(source, target):
            size = piece.end - piece.start
            if not groups or size > room:
                groups.append([])
                room = target
            groups[-1].append(piece)
            room -= size
    return [Task(number, tuple(pieces)) for number, pieces in enumerate(groups)]


@dataclass(frozen=True)
class TaskResult:
    """What the marker of a finished task says."""

    shards: tuple[ShardRecord, ...]
    rejected: int
    repaired: int
    empty: int

    @property
    def documents(self) -> int:
        """Documents in the shards."""
        return sum(record.documents for record in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens in the shards."""
        return sum(record.tokens for record in self.shards)


def task_folder(job: Job, task: Task) -> Path:
    """Where a task writes."""
    return job.build / "tasks" / f"{task.number:05d}"


def shard_name(split: str, number: int) -> str:
    """The name of a shard, within a task or a dataset."""
    return f"{split}-{number:05d}"


def load_result(job: Job, task: Task) -> TaskResult | None:
    """The result of a task, or None where it is not finished."""
    try:
        content = json.loads((task_folder(job, task) / "done.json").read_bytes())
        return TaskResult(tuple(ShardRecord(**record) for record in content.pop("shards")), **content)
    except FileNotFoundError:
        return None


def is_intact(record: ShardRecord, prefix: Path, itemsize: int) -> bool:
    """Whether the two files of a shard are there with the sizes that its record implies."""
    sizes = {"bin": record.tokens * itemsize, "idx": HEADER.size + 20 * record.documents + 8}
    paths = {kind: prefix.with_name(f"{prefix.name}.{kind}") for kind in sizes}
    return all(path.is_file() and path.stat().st_size == sizes[kind] for kind, path in paths.items())


class TaskRunner:
    """Turns tasks into shards; lives in a worker process.

    Args:
        job: The job; its `build` directory holds the tokenizer.
        report: Called after each batch with the source bytes, tokens, documents and rejections it had.
    """

    def __init__(self, job: Job, report: Callable[[Counts], None]):
        self._job = job
        self._report = report
        self._tokenizer = Tokenizer.load(job.build / "tokenizer")
        self._dtype = token_dtype(self._tokenizer.vocab_size)

    def run(self, task: Task) -> None:
        """Writes the files of one task, its marker last."""
        folder = task_folder(self._job, task)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        writers = [SplitWriter(folder, split, self._dtype, self._job.shard_tokens) for split in SPLITS]
        counts = {"rejected": 0, "repaired": 0, "empty": 0}
        with open(folder / "rejected.jsonl", "w", encoding="utf-8") as rejections:
            for piece in task.pieces:
                for batch in _batches(self._readable(piece)):
                    documents = [item for item in batch if isinstance(item, Document)]
                    bad = [item for item in batch if isinstance(item, Rejected)]
                    rejections.write(_rejection_lines(piece, bad))
                    kept = [document for document in documents if document.text]
                    counts["rejected"] += len(bad)
                    counts["empty"] += len(documents) - len(kept)
                    counts["repaired"] += sum(document.repaired for document in kept)
                    tokens = self._add([document.text for document in kept], writers)
                    self._report(Counts(sum(item.size for item in batch), tokens, len(kept), len(bad)))
            rejections.flush()
            os.fsync(rejections.fileno())
        shards = [asdict(record) for writer in writers for record in writer.close()]
        write_durably(folder / "done.json", json.dumps({"shards": shards, **counts}))

    def _readable(self, piece: Piece) -> Iterator[Document | Rejected]:
        """The documents of a piece; those that the tokenizer has no characters for become rejections."""
        for item in read(piece, self._job.text_field):
            if isinstance(item, Document) and (unknown := self._tokenizer.unknown_characters(item.text)):
                reason = f"{describe_characters(unknown)} not in the character-level tokenizer"
                yield Rejected(item.path, item.line, item.size, reason)
            else:
                yield item

    def _add(self, texts: list[str], writers: list["SplitWriter"]) -> int:
        """Tokenises texts, ends each with end-of-text and gives it to its split; returns the tokens."""
        if not texts:
            return 0
        encoded = [text.encode("utf-8") for text in texts]
        is_val = np.array([_belongs_to_val(data, self._job.val_fraction) for data in encoded])
        sizes = np.array([len(data) for data in encoded], dtype=np.int64)
        words = np.array([len(text.split()) for text in texts], dtype=np.int64)
        ids, lengths = self._tokenizer.encode_batch(texts)
        lengths += 1
        tokens = np.empty(ids.size + lengths.size, dtype=self._dtype)
        is_text = np.ones(tokens.size, dtype=bool)
        is_text[np.cumsum(lengths) - 1] = False
        tokens[is_text] = ids
        tokens[~is_text] = self._tokenizer.end_of_text_id
        for writer, chosen in zip(writers, (~is_val, is_val), strict=True):
            if chosen.any():
                picked = tokens[np.repeat(chosen, lengths)]
                writer.add(picked, lengths[chosen], sizes[chosen], words[chosen])
        return int(tokens.size)


class SplitWriter:
    """Writes the documents of one split of one task into shards of a bounded size.

    Args:
        folder: Where to.
        split: Its name, which the shards' names begin with.
        dtype: Of the tokens.
        shard_tokens: Most tokens in a shard; only a single document can be longer.
    """

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int):
        self._folder, self._split, self._dtype, self._shard_tokens = folder, split, dtype, shard_tokens
        self._records: list[ShardRecord] = []
        self._writer: ShardWriter | None = None
        self._bytes = self._words = 0

    def add(self, tokens: np.ndarray, lengths: np.ndarray, sizes: np.ndarray, words: np.ndarray) -> None:
        """Appends documents.

        Args:
            tokens: [tokens], the documents one after the other.
            lengths: int64 [documents], tokens in each.
            sizes: int64 [documents], UTF-8 bytes in each.
            words: int64 [documents], words in each.
        """
        while lengths.size:
            if self._writer is None:
                self._writer = ShardWriter(
                    self._folder / shard_name(self._split, len(self._records)), self._dtype
                )
            ends = np.cumsum(lengths)
            count = int(np.searchsorted(ends, self._shard_tokens - self._writer.tokens, side="right"))
            if count == 0 and self._writer.tokens:
                self._finish_shard()
                continue
            count = max(count, 1)
            self._writer.add(tokens[: ends[count - 1]], lengths[:count])
            self._bytes += int(sizes[:count].sum())
            self._words += int(words[:count].sum())
            tokens = tokens[ends[count - 1] :]
            lengths, sizes, words = lengths[count:], sizes[count:], words[count:]

    def close(self) -> list[ShardRecord]:
        """Completes the last shard and returns the records of all."""
        self._finish_shard()
        return self._records

    def _finish_shard(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.close()
        self._records.append(
            ShardRecord(
                name=writer.prefix.name,
                split=self._split,
                tokens=writer.tokens,
                documents=writer.documents,
                bytes=self._bytes,
                words=self._words,
                sha256=writer.sha256,
            )
        )
        self._bytes = self._words = 0


def _belongs_to_val(data: bytes, fraction: float) -> bool:
    """By the content alone, so that equal documents are always on the same side."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64 < fraction


def _batches(items: Iterator[Document | Rejected]) -> Iterator[list[Document | Rejected]]:
    batch: list[Document | Rejected] = []
    size = 0
    for item in items:
        batch.append(item)
        size += item.size
        if size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _rejection_lines(piece: Piece, rejected: list[Rejected]) -> str:
    if not rejected:
        return ""
    before = line_in_file(piece, 0)
    return "".join(
        json.dumps({"file": item.path, "line": before + item.line, "reason": item.reason}) + "\n"
        for item in rejected
    )
