"""Write the documents of a split into shards of bounded size."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2dist.dataset.manifest import ShardRecord
from gpt2dist.dataset.megatron_format import HashingFile, ShardWriter
from gpt2dist.dataset.provenance import SUFFIX as ORIGINS_SUFFIX
from gpt2dist.preprocessing.tasks import shard_name

MAX_SHARD_DOCUMENTS = 1 << 23
"""Maximum documents in a shard; limits the index data that a writer holds in memory to 64 MiB."""

SPILL_BLOCK = 1 << 20
"""Tokens of a long document that are held in memory at a time."""

DIGEST = np.dtype("S16")
"""The first 16 bytes of a document's sha256, which identify its content."""

FACTS = np.dtype([("digest", DIGEST), ("bytes", "<i8"), ("words", "<i8"), ("lm_eval_words", "<i8")])
"""Per-document record for deduplication."""

FACTS_SUFFIX = ".facts"


@dataclass(frozen=True)
class DocumentBlock:
    """A block of tokenised documents.

    Attributes:
        tokens: [tokens], the concatenated documents.
        lengths: int64 [documents], tokens in each.
        sizes: int64 [documents], UTF-8 bytes in each.
        words: int64 [documents], words in each.
        lm_eval_words: int64 [documents], words in each as lm-evaluation-harness counts them.
        origins: ORIGIN [documents].
        digests: DIGEST [documents]; None if neither deduplication nor a validation split needs them.
    """

    tokens: NDArray[np.integer]
    lengths: NDArray[np.int64]
    sizes: NDArray[np.int64]
    words: NDArray[np.int64]
    lm_eval_words: NDArray[np.int64]
    origins: NDArray[np.void]
    digests: NDArray[np.bytes_] | None

    def __len__(self) -> int:
        return len(self.lengths)

    def part(self, first: int, last: int) -> "DocumentBlock":
        """Return the documents `first` (inclusive) to `last` (exclusive), without copying."""
        begin = int(self.lengths[:first].sum())
        end = begin + int(self.lengths[first:last].sum())
        rows = slice(first, last)
        return DocumentBlock(
            self.tokens[begin:end],
            self.lengths[rows],
            self.sizes[rows],
            self.words[rows],
            self.lm_eval_words[rows],
            self.origins[rows],
            None if self.digests is None else self.digests[rows],
        )


class SplitWriter:
    """Writer of the documents of one split of one task.

    Args:
        folder: The directory to write the shards to.
        split: The name of the split, with which the names of its shards start.
        dtype: The dtype of the tokens.
        shard_tokens: The maximum tokens in a shard; only a single document can exceed it.
        keep_facts: Whether to write the `FACTS` of the documents beside each shard.
    """

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int, keep_facts: bool):
        self._folder, self._split, self._dtype = folder, split, dtype
        self._shard_tokens, self._keep_facts = shard_tokens, keep_facts
        self._records: list[ShardRecord] = []
        self._shard: SplitShardWriter | None = None

    def add(self, block: DocumentBlock) -> None:
        """Append documents."""
        while len(block):
            shard = self._open()
            room = int(np.searchsorted(np.cumsum(block.lengths), self._shard_tokens - shard.tokens, side="right"))
            count = min(room, MAX_SHARD_DOCUMENTS - shard.documents)
            if count == 0 and shard.documents:
                self._finish()
                continue
            count = max(count, 1)
            shard.add(block.part(0, count))
            block = block.part(count, len(block))

    def add_long(self, facts: DocumentBlock, spill: Path) -> None:
        """Append one document whose tokens are in a file, without reading the whole file into memory.

        Args:
            facts: A block of this document, without its tokens.
            spill: The file of its tokens.
        """
        shard = self._open()
        full = shard.tokens + int(facts.lengths[0]) > self._shard_tokens
        if shard.documents and (full or shard.documents >= MAX_SHARD_DOCUMENTS):
            self._finish()
            shard = self._open()
        shard.add_long(facts, _blocks(spill, self._dtype))

    def close(self) -> list[ShardRecord]:
        """Complete the last shard, and return the records of all shards."""
        self._finish()
        return self._records

    def _open(self) -> "SplitShardWriter":
        if self._shard is None:
            prefix = self._folder / shard_name(self._split, len(self._records))
            self._shard = SplitShardWriter(prefix, self._dtype, self._keep_facts)
        return self._shard

    def _finish(self) -> None:
        shard, self._shard = self._shard, None
        if shard is not None:
            self._records.append(shard.close(self._split))


class SplitShardWriter:
    """Writer of one shard with its origins and, optionally, `FACTS`.

    Args:
        prefix: The path without suffix.
        dtype: The dtype of the tokens.
        keep_facts: Whether to write `FACTS`.
    """

    def __init__(self, prefix: Path, dtype: np.dtype, keep_facts: bool):
        self._prefix = prefix
        self._shard = ShardWriter(prefix, dtype)
        self._origins = HashingFile(prefix.with_name(prefix.name + ORIGINS_SUFFIX))
        self._facts = HashingFile(prefix.with_name(prefix.name + FACTS_SUFFIX)) if keep_facts else None
        self._bytes = self._words = self._lm_eval_words = 0

    @property
    def tokens(self) -> int:
        """The number of tokens written so far."""
        return self._shard.tokens

    @property
    def documents(self) -> int:
        """The number of documents written so far."""
        return self._shard.documents

    def add(self, block: DocumentBlock) -> None:
        """Append documents."""
        self._shard.add(block.tokens, block.lengths)
        self._add_facts(block)

    def add_long(self, facts: DocumentBlock, tokens: Iterator[NDArray[np.integer]]) -> None:
        """Append one document, given its tokens and a block with everything else."""
        self._shard.add_document(tokens)
        self._add_facts(facts)

    def _add_facts(self, block: DocumentBlock) -> None:
        self._origins.write(block.origins.tobytes())
        if self._facts:
            facts = np.empty(len(block), FACTS)
            facts["digest"], facts["bytes"] = block.digests, block.sizes
            facts["words"], facts["lm_eval_words"] = block.words, block.lm_eval_words
            self._facts.write(facts.tobytes())
        self._bytes += int(block.sizes.sum())
        self._words += int(block.words.sum())
        self._lm_eval_words += int(block.lm_eval_words.sum())

    def close(self, split: str) -> ShardRecord:
        """Complete the shard, and return its record with this `split`."""
        self._shard.close()
        if self._facts:
            self._facts.commit()
        return ShardRecord(
            name=self._prefix.name,
            split=split,
            tokens=self.tokens,
            documents=self.documents,
            bytes=self._bytes,
            words=self._words,
            lm_eval_words=self._lm_eval_words,
            sha256=self._shard.sha256 | {"origins": self._origins.commit()},
        )


def _blocks(path: Path, dtype: np.dtype) -> Iterator[NDArray[np.integer]]:
    with open(path, "rb") as file:
        while (block := np.fromfile(file, dtype, SPILL_BLOCK)).size:
            yield block
