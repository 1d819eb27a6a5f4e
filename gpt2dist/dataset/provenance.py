"""Where each document of a shard came from: `NAME.origins` beside the shard, and `pieces.jsonl` in the dataset.

`NAME.origins` has one little-endian record of 20 bytes per document, in the order of the shard. It names a piece,
that is a line of `pieces.jsonl`, and the place within it:

    {"path": "/corpus/a.jsonl", "format": "jsonl", "first_line": 120934}

The document's line (row of a table, document of a text file with separators) is `first_line` + `line`, 1-based.
Both are apart because a worker that begins in the middle of a file does not know how many lines came before.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpt2dist.dataset.dataset import ShardReader, open_shard
from gpt2dist.dataset.manifest import Manifest

SUFFIX = ".origins"
PIECES_NAME = "pieces.jsonl"

ORIGIN = np.dtype([("piece", "<u4"), ("line", "<i8"), ("offset", "<i8")])
"""`piece` counts the lines of pieces.jsonl from 0, `line` the lines of the piece from 1; `offset` is the first
byte of the document in the (decompressed) file, −1 where the format has none."""


@dataclass(frozen=True)
class SourceLocation:
    """The place of a document in the corpus.

    Attributes:
        path: File, URL or dataset.
        line: Line, row or document in it, from 1.
        offset: The first byte of it in the decompressed file; None where the format has no bytes.
    """

    path: str
    line: int
    offset: int | None

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" + (f" (byte {self.offset:,})" if self.offset else "")


@dataclass(frozen=True)
class StreamDocument:
    """A document in the stream of a split.

    Attributes:
        number: Its number in the split, from 0.
        start: Stream position of its first token.
        end: Stream position behind its last token, which is end-of-text.
        shard: The shard that it lies in.
        origin: Where it came from; None where the dataset does not say.
    """

    number: int
    start: int
    end: int
    shard: str
    origin: SourceLocation | None


class StreamDocuments:
    """Finds the documents of a split by their place in its stream. Opens the shards that it is asked about.

    Args:
        manifest: Of the dataset.
        split: Such as "train".
    """

    def __init__(self, manifest: Manifest, split: str):
        self._directory = Path(manifest.directory)
        self._records = manifest.shards_of(split)
        self._token_ends = np.cumsum([record.tokens for record in self._records])
        self._document_ends = np.cumsum([record.documents for record in self._records])
        self._manifest = manifest
        self._shards: dict[int, ShardReader] = {}

    def between(self, begin: int, end: int) -> list[StreamDocument]:
        """The documents with a token in [begin, end), in order.

        Args:
            begin: Stream position, at least 0.
            end: Stream position; positions behind the stream have no document.
        """
        found: list[StreamDocument] = []
        for number in range(int(np.searchsorted(self._token_ends, begin, side="right")), len(self._records)):
            base = int(self._token_ends[number]) - self._records[number].tokens
            if base >= end:
                break
            found += self._in_shard(number, max(begin - base, 0), end - base)
        return found

    def _in_shard(self, number: int, begin: int, end: int) -> list[StreamDocument]:
        """The documents of a shard with a token in [begin, end) of it."""
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
                origin=self._origin(record.name, place),
            )
            for place in range(first, last)
            if int(ends[place]) > (int(ends[place - 1]) if place else 0)  # adopted shards can have empty ones
        ]

    def _shard(self, number: int) -> ShardReader:
        if number not in self._shards:
            self._shards[number] = open_shard(self._manifest, self._records[number])
        return self._shards[number]

    def _origin(self, shard: str, place: int) -> SourceLocation | None:
        path = self._directory / (shard + SUFFIX)
        if not path.is_file():
            return None
        (record,) = np.fromfile(path, ORIGIN, 1, offset=place * ORIGIN.itemsize)
        piece = self._pieces[int(record["piece"])]
        offset = int(record["offset"])
        return SourceLocation(
            piece["path"], piece["first_line"] + int(record["line"]), None if offset < 0 else offset
        )

    @cached_property
    def _pieces(self) -> list[dict[str, Any]]:
        with open(self._directory / PIECES_NAME, encoding="utf-8") as file:
            return [json.loads(line) for line in file]
