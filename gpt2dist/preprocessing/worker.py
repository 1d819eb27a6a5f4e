"""Run one preprocessing task: read a part of the corpus, tokenise it and write shards."""

import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2dist import atomic_io
from gpt2dist.corpus import BadDocumentError, Document, Item, LongDocument, Rejected, read
from gpt2dist.corpus.damage import excerpt
from gpt2dist.corpus.utf8 import REPLACEMENT, count_characters
from gpt2dist.corpus.word_count import WordCounter, count_words
from gpt2dist.dataset.megatron_format import MAX_DOCUMENT_TOKENS, token_dtype
from gpt2dist.dataset.provenance import ORIGIN
from gpt2dist.errors import Gpt2distError, UserError
from gpt2dist.memory import peak_resident_bytes
from gpt2dist.preprocessing.atomic_output import MARKER, Counts, ProgressFile, attempt
from gpt2dist.preprocessing.corpus_plan import require_unchanged
from gpt2dist.preprocessing.filters import TextFunctions
from gpt2dist.preprocessing.job import PreprocessingJob
from gpt2dist.preprocessing.selection import Selection, not_known
from gpt2dist.preprocessing.splits import DIGEST, DocumentBlock, SplitWriter
from gpt2dist.preprocessing.tasks import (
    SPLITS,
    Task,
    task_folder,
)
from gpt2dist.tokenizer.encoder import Encoder, UncuttableError, cut_long_text, make_encoder
from gpt2dist.tokenizer.round_trip import RoundTrip, TextChanges
from gpt2dist.tokenizer.tokenizer import Tokenizer

BATCH_BYTES, BATCH_DOCUMENTS = 1 << 20, 4096
"""Size at which a batch is tokenised, in bytes and in documents."""


class TaskCancelledError(Gpt2distError):
    """Raised within a task when the driver has stopped the job."""


def run_task(job: PreprocessingJob, task: Task) -> int:
    """Run a task unless it is done. Several workers may attempt it at the same time; one of them wins.

    Args:
        job: The job; its `build` directory holds the tokenizer.
        task: The task.

    Returns:
        The peak memory of this process, in bytes.

    Raises:
        UserError: A file of the corpus cannot be read or has changed; or a text is bad and `on_bad_text` is
            "fail".
        RunError: The files cannot be written.
        TaskCancelledError: The driver has stopped the job.
    """
    final = task_folder(job, task)
    if not (final / MARKER).exists():
        with attempt(final, job.running) as folder:
            _do(job, task, folder)
    return peak_resident_bytes()


def _do(job: PreprocessingJob, task: Task, folder: Path) -> None:
    progress = ProgressFile(folder)

    def report(counts: Counts) -> None:
        progress.write(counts)
        if job.stop.exists():
            raise TaskCancelledError

    try:
        result = _Work(job, task, folder, report).run()
    except UserError:
        require_unchanged(job, task)  # A file that changed may seem damaged.
        raise
    finally:
        progress.close()
    require_unchanged(job, task)
    atomic_io.write_text(folder / MARKER, json.dumps(result))


class _Tools:
    """Tokenizer, encoder, its check and the user's functions, which a worker keeps between the tasks of a job."""

    def __init__(self, job: PreprocessingJob):
        self.tokenizer = Tokenizer.load(job.build / "tokenizer")
        self.encoder: Encoder = make_encoder(job.encoder, self.tokenizer, job.memory_per_worker)
        self.round_trip = RoundTrip(self.tokenizer)
        self.functions = TextFunctions(job.normalizer, job.filters)


@lru_cache(maxsize=1)
def _tools(job: PreprocessingJob, thread: int) -> _Tools:
    return _Tools(job)


def load_tools(job: PreprocessingJob) -> _Tools:
    """Return the tools of this thread for a job, cached between calls."""
    return _tools(job, threading.get_ident())


class _Work:
    """Execution of one task.

    Args:
        job: The job.
        task: The task.
        folder: The folder to write to.
        report: Called after each batch, or part of a long document, with the work done so far.
    """

    def __init__(self, job: PreprocessingJob, task: Task, folder: Path, report: Callable[[Counts], None]):
        self._job, self._task, self._folder, self._report = job, task, folder, report
        tools = load_tools(job)
        self._tokenizer, self._encoder, self._round_trip = tools.tokenizer, tools.encoder, tools.round_trip
        self._dtype = token_dtype(self._tokenizer.vocab_size)
        self._writers = [
            SplitWriter(folder, split, self._dtype, job.shard_tokens, job.deduplicate) for split in SPLITS
        ]
        self._size = task.size or sys.maxsize  # Some sources have an unknown size, given as 0.
        self._counts = Counts()
        self._selection = Selection(job, tools.tokenizer, tools.functions, self._counts)
        self._changes: list[TextChanges] = []
        self._lines: list[int] = []
        self._empty: list[int] = []

    def run(self) -> dict[str, Any]:
        """Read, tokenise and write the whole task, and return the content of done.json."""
        with self._selection.listing_in(self._folder):
            for batch in self._batches():
                self._write(batch)
                self._report(self._counts)
        return {
            "shards": [asdict(record) for writer in self._writers for record in writer.close()],
            "left_out": self._selection.left_out,
            "repaired": self._selection.repaired,
            "characters": self._counts.characters,
            "replaced": self._counts.replaced,
            "examples": [asdict(example) for example in self._selection.examples],
            "text_changes": asdict(TextChanges.total(self._changes)),
            "lines": self._lines,
            "empty": self._empty,
        }

    def _batches(self) -> Iterator["_Batch"]:
        """Yield the kept documents in batches. Long documents are written in between, in corpus order."""
        batch = _Batch()
        for item in self._items():
            if isinstance(item, Document):
                text = self._selection.kept(item)
                if text:
                    batch.add(text, self._number, item.line, item.offset)
                # The characters of other texts are counted together, which is faster.
                if not text or self._selection.changes_text:
                    self._counts.characters += count_characters(item.text)
            elif isinstance(item, LongDocument):
                yield batch  # Documents before the long one are written first.
                batch = _Batch()
                self._write_long(item)
            elif isinstance(item, Rejected):
                self._selection.reject(item, item.reason, item.lines)
            else:
                self._selection.skip_record(item)
            self._count(item.size)
            if batch.size >= BATCH_BYTES or len(batch.texts) >= BATCH_DOCUMENTS:
                yield batch
                batch = _Batch()
        yield batch

    def _count(self, size: int) -> None:
        """Count bytes as read, up to the task's size: a long line may extend into pieces of other tasks."""
        self._counts.bytes = min(self._counts.bytes + size, self._size)

    def _items(self) -> Iterator[Item]:
        for number, piece in enumerate(self._task.pieces, start=self._task.first_piece):
            self._number = number
            self._selection.start(number, piece)
            before = self._selection.left_out["empty"]
            self._lines.append((yield from read(piece, self._job.reading)))
            self._empty.append(self._selection.left_out["empty"] - before)

    # --- Writing ------------------------------------------------------------------------------------------

    def _write(self, batch: "_Batch") -> None:
        """Tokenise documents, append end-of-text to each and write each to its split."""
        if not batch.texts:
            return
        if not self._selection.changes_text:
            self._counts.characters += count_characters(b"".join(batch.texts))
        ids, lengths = self._encoder.encode_batch(batch.texts)
        counts = count_words(batch.texts)
        self._changes.append(self._round_trip.compare(batch.texts, ids, lengths))
        lengths = lengths + 1
        last = np.cumsum(lengths) - 1
        tokens = np.empty(ids.size + lengths.size, dtype=self._dtype)
        is_text = np.ones(tokens.size, dtype=bool)
        is_text[last] = False
        tokens[is_text] = ids
        tokens[last] = self._tokenizer.end_of_text_id
        self._add(
            DocumentBlock(
                tokens,
                lengths,
                sizes=np.fromiter(map(len, batch.texts), np.int64, lengths.size),
                words=counts.words,
                lm_eval_words=counts.lm_eval_words,
                origins=np.array(batch.origins, ORIGIN),
                digests=self._digests(sha256(text).digest() for text in batch.texts),
            )
        )

    def _digests(self, hashes: Iterator[bytes]) -> NDArray[np.bytes_] | None:
        if not (self._job.deduplicate or self._job.val_fraction):
            return None
        return np.array([digest[: DIGEST.itemsize] for digest in hashes], DIGEST)

    def _add(self, block: DocumentBlock) -> None:
        for split, first, last in self._runs(block):
            self._writers[split].add(block.part(first, last))
        self._counts.tokens += block.tokens.size
        self._counts.documents += len(block)

    def _runs(self, block: DocumentBlock) -> Iterator[tuple[int, int, int]]:
        """Yield (split index, first, end) for each run of documents in the same split, end exclusive."""
        if block.digests is None:
            yield 0, 0, len(block)
            return
        # The split depends on the content alone, so equal documents are always in the same split.
        heads = np.ascontiguousarray(block.digests).view(">u8")[::2]
        is_val = heads / 2**64 < self._job.val_fraction
        borders = [0, *(np.flatnonzero(is_val[1:] != is_val[:-1]) + 1).tolist(), len(block)]
        for first, last in pairwise(borders):
            yield int(is_val[first]), first, last

    def _write_long(self, document: LongDocument) -> None:
        """Tokenise a long document in parts into a file: its hash, and so its split, is known only at the end."""
        spill = self._folder / "long.tmp"
        try:
            with open(spill, "wb") as file:
                facts = self._spill(document, file.write)
            self._counts.characters += facts.characters
            if document.repaired:
                self._selection.repair(document, facts.example)
            reason = self._selection.wrong_length(facts.characters) if facts.bytes else "empty"
            if reason:
                self._selection.skip(reason)
            else:
                self._add_long(document, facts, spill)
                self._changes.append(facts.text_changes)
        except (BadDocumentError, UncuttableError) as error:
            with suppress(BadDocumentError):
                deque(document.parts, maxlen=0)  # Consume the rest; the next document starts after it.
            lines = error.lines if isinstance(error, BadDocumentError) else 1
            self._selection.reject(document, str(error), lines)
        finally:
            spill.unlink(missing_ok=True)
        self._report(self._counts)

    def _spill(self, document: LongDocument, write: Callable[[memoryview], int]) -> "_LongFacts":
        if self._selection.changes_text:
            raise UncuttableError("too long for a normalizer or filter, which takes whole documents")
        facts = _LongFacts()
        for part in cut_long_text(document.parts, self._tokenizer):
            text = part.decode()
            unknown = self._tokenizer.unknown_characters(text)
            if unknown:
                raise UncuttableError(not_known(unknown))
            ids, lengths = self._encoder.encode_batch([part])
            write(ids.astype(self._dtype).data)
            facts.add(part, len(text), ids.size, self._round_trip.compare([part], ids, lengths))
            self._report(self._counts)
        if facts.tokens >= MAX_DOCUMENT_TOKENS:
            raise UncuttableError(f"{facts.tokens:,} tokens are more than a shard can index as one document")
        write(np.array([self._tokenizer.end_of_text_id], self._dtype).data)
        return facts

    def _add_long(self, document: LongDocument, facts: "_LongFacts", spill: Path) -> None:
        block = DocumentBlock(
            np.zeros(0, self._dtype),
            lengths=np.array([facts.tokens + 1]),
            sizes=np.array([facts.bytes]),
            words=np.array([facts.words.total]),
            lm_eval_words=np.array([facts.words.lm_eval_total]),
            origins=np.array([(self._number, document.line, document.offset)], ORIGIN),
            digests=self._digests(iter([facts.hash.digest()])),
        )
        ((split, _, _),) = self._runs(block)
        self._writers[split].add_long(block, spill)
        self._counts.tokens += facts.tokens + 1
        self._counts.documents += 1


class _Batch:
    """Batch of documents that are tokenised together."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.origins: list[tuple[int, int, int]] = []
        self.size = 0

    def add(self, text: bytes, piece: int, line: int, offset: int) -> None:
        self.texts.append(text)
        self.origins.append((piece, line, offset))
        self.size += len(text)


class _LongFacts:
    """Hash and counts of a long document, updated part by part."""

    def __init__(self) -> None:
        self.hash = sha256()
        self.words = WordCounter()
        self.bytes = self.characters = self.tokens = 0
        self.example = ""
        """An excerpt with U+FFFD, if there is any."""
        self._changes: list[TextChanges] = []

    @property
    def text_changes(self) -> TextChanges:
        """The changes of the document, which counts once."""
        total = TextChanges.total(self._changes)
        return TextChanges(min(1, total.documents), total.unknown_tokens)

    def add(self, part: bytes, characters: int, tokens: int, changes: TextChanges) -> None:
        self.hash.update(part)
        if not self.example and REPLACEMENT.encode() in part:
            self.example = excerpt(part)
        self.words.add(part)
        self.bytes += len(part)
        self.characters += characters
        self.tokens += tokens
        self._changes.append(changes)
