"""The origin of each document: `NAME.origins` beside each shard, and `pieces.jsonl` in the dataset directory.

`NAME.origins` has one little-endian record of 20 bytes per document, in shard order. A record refers to a piece,
which is a line of `pieces.jsonl`, and to a line and byte offset in it:

    {"path": "/corpus/a.jsonl", "format": "jsonl", "first_line": 120934}

The document's line (row of a table, document of a text file with separators) is `first_line` + `line`, 1-based.
The two are stored separately because a worker that starts in the middle of a file cannot know how many lines
precede it.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpt2dist import json_files
from gpt2dist.dataset.dataset import ShardReader, open_shard, require_counts
from gpt2dist.dataset.manifest import AGAIN, Manifest, ShardRecord
from gpt2dist.errors import UserError

SUFFIX = ".origins"
PIECES_NAME = "pieces.jsonl"

ORIGIN = np.dtype([("piece", "<u4"), ("line", "<i8"), ("offset", "<i8")])
"""`piece` is a line of pieces.jsonl, 0-based; `line` is a line of the piece, 1-based. `offset` is the document's
first byte in the (decompressed) file, or −1 if the format has no byte offsets."""


@dataclass(frozen=True)
class SourceLocation:
    """Location of a document in the corpus.

    Attributes:
        path: File, URL or dataset.
        line: Line, row or document in `path`, 1-based.
        offset: First byte in the decompressed file; None if the format has no byte offsets.
    """

    path: str
    line: int
    offset: int | None

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" + (f" (byte {self.offset:,})" if self.offset is not None else "")


@dataclass(frozen=True)
class StreamDocument:
    """A document in the stream of a split.

    Attributes:
        number: Index in the split, 0-based.
        start: Stream position of its first token.
        end: Stream position after its last token, which is end-of-text in datasets that `preprocess` made.
        shard: Name of its shard.
        origin: Location in the corpus; None if the dataset does not record it.
    """

    number: int
    start: int
    end: int
    shard: str
    origin: SourceLocation | None


class StreamDocuments:
    """Index of a split's documents by stream position. It opens a shard when a query first reaches it.

    Args:
        manifest: The manifest of the dataset.
        split: Name of the split, such as "train".
    """

    def __init__(self, manifest: Manifest, split: str):
        self._directory = Path(manifest.directory)
        self._records = manifest.shards_of(split)
        self._token_ends = np.cumsum([record.tokens for record in self._records])
        self._document_ends = np.cumsum([record.documents for record in self._records])
        self._manifest = manifest
        self._shards: dict[int, ShardReader] = {}

    def between(self, begin: int, end: int) -> list[StreamDocument]:
        """Return the documents with a token in [begin, end), in order.

        Args:
            begin: Stream position, at least 0.
            end: Stream position; it may lie beyond the end of the stream.
        """
        found: list[StreamDocument] = []
        for number in range(int(np.searchsorted(self._token_ends, begin, side="right")), len(self._records)):
            base = int(self._token_ends[number]) - self._records[number].tokens
            if base >= end:
                break
            found += self._in_shard(number, max(begin - base, 0), end - base)
        return found

    def _in_shard(self, number: int, begin: int, end: int) -> list[StreamDocument]:
        """Return a shard's documents with a token in [begin, end), relative to the start of the shard."""
        record = self._records[number]
        shard = self._shard(number)
        ends = shard.document_ends
        first = int(np.searchsorted(ends, begin, side="right"))
        last = min(int(np.searchsorted(ends, end, side="left")) + 1, len(ends))
        tokens = int(self._token_ends[number]) - record.tokens
        documents = int(self._document_ends[number]) - record.documents
        return [
            StreamDocument(
                number=documents + place,
                start=tokens + (int(ends[place - 1]) if place else 0),
                end=tokens + int(ends[place]),
                shard=record.name,
                origin=self._origin(record, place),
            )
            for place in range(first, last)
            if int(ends[place]) > (int(ends[place - 1]) if place else 0)  # adopted documents may be empty
        ]

    def _shard(self, number: int) -> ShardReader:
        if number not in self._shards:
            shard, record = open_shard(self._manifest, self._records[number]), self._records[number]
            require_counts(shard, self._manifest, record)
            self._shards[number] = shard
        return self._shards[number]

    def _origin(self, shard: ShardRecord, place: int) -> SourceLocation | None:
        if "origins" not in shard.sha256:
            return None
        path = self._directory / (shard.name + SUFFIX)
        if not json_files.is_file(path):
            raise UserError(f"{path}: no such file, and the manifest names it; {AGAIN}")
        found = np.fromfile(path, ORIGIN, 1, offset=place * ORIGIN.itemsize)
        if not found.size:
            raise UserError(f"{path}: ends before document {place:,} of its shard; {AGAIN}")
        (record,) = found
        number, line, offset = int(record["piece"]), int(record["line"]), int(record["offset"])
        if number >= len(self._pieces) or line < 1:
            raise UserError(
                f"{path}: document {place:,} is from line {line:,} of piece {number:,}, and "
                f"{self._directory / PIECES_NAME} has no such place; {AGAIN}"
            )
        piece = self._pieces[number]
        return SourceLocation(piece["path"], piece["first_line"] + line, None if offset < 0 else offset)

    @cached_property
    def _pieces(self) -> list[dict[str, Any]]:
        keys = {"path": str, "format": str, "first_line": int}
        return list(json_files.require_lines(self._directory / PIECES_NAME, keys, AGAIN))
