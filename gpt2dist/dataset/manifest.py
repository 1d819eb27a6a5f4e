"""The manifest of a dataset directory, `manifest.json`. Needs only the standard library, so it imports fast."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io, json_files
from gpt2dist.errors import UserError

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
MAX_BYTES = 1 << 30
"""Size up to which a manifest is read: that of some two million shards."""
MAX_NAME = 200
"""Length up to which a shard is named; a file system takes 255 bytes with the suffix."""
_FORMATS = ("megatron", "nanogpt", "llmc")
"""Formats of shards."""
_DTYPES = ("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32")
"""Dtypes of tokens in any of the formats."""
_AGAIN = "copy the dataset again, or preprocess the corpus again"


@dataclass(frozen=True)
class ShardRecord:
    """One shard: the files `name`.bin and `name`.idx, or the adopted files at `path`."""

    name: str
    """Name such as "train-00000"."""
    split: str
    """"train" or "val"."""
    tokens: int
    """Number of tokens, including end-of-text."""
    documents: int
    bytes: int
    """UTF-8 bytes of the documents' text."""
    words: int
    """Whitespace-separated words of the documents' text."""
    sha256: dict[str, str]
    """Hexadecimal hashes under "bin", "idx" and "origins", for the files that exist."""
    format: str = "megatron"
    """"megatron", or for adopted files also "nanogpt" or "llmc"."""
    path: str = ""
    """Absolute path of an adopted shard; empty for one in the dataset directory."""

    def __post_init__(self) -> None:
        for key in ("tokens", "documents", "bytes", "words"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} is {getattr(self, key)}")
        if self.format not in _FORMATS:
            raise ValueError(f"format {self.format!r} is not one of {', '.join(_FORMATS)}")
        if Path(self.name).name != self.name or len(self.name) > MAX_NAME or "\0" in self.name + self.path:
            raise ValueError(f"{(self.name + self.path)[:99]!r} is not the name of a shard")


@dataclass(frozen=True)
class Totals:
    """Sums over the shards of a split."""

    tokens: int
    documents: int
    bytes: int
    words: int


@dataclass(frozen=True)
class Manifest:
    """Contents and origin of a dataset directory."""

    tokenizer_fingerprint: str
    vocab_size: int
    end_of_text_id: int
    dtype: str
    """NumPy's name of the tokens' dtype."""
    options: dict[str, Any]
    """Options of `preprocess` that shape the shards; for adopted files, their format under "adopted"."""
    sources: dict[str, Any]
    """"files", "bytes" and "listing_sha256", the hash of sources.jsonl, which names every file."""
    shards: tuple[ShardRecord, ...]
    """Shards in stream order: train-00000, train-00001, …, val-00000, …"""
    left_out: dict[str, int] = field(default_factory=dict)
    """Number of documents omitted from the shards, by reason: "rejected" (unreadable, listed in rejected.jsonl),
    "empty", "duplicate", "too_short", "too_long"."""
    listings: dict[str, str] = field(default_factory=dict)
    """sha256 of the listings beside the shards: sources.jsonl and, if `preprocess` made the dataset, pieces.jsonl
    and rejected.jsonl."""
    repaired: int = 0
    """Number of documents in which invalid UTF-8 was replaced by U+FFFD."""
    format_version: int = FORMAT_VERSION
    directory: Path = field(default=Path(), compare=False)
    """Directory that the manifest was loaded from or saved to."""

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(_DTYPES)}")
        if not 0 <= self.end_of_text_id < self.vocab_size:
            raise ValueError(f"end_of_text_id {self.end_of_text_id} is not below vocab_size {self.vocab_size}")
        names = [record.name for record in self.shards]
        if len(set(names)) < len(names):
            raise ValueError("two shards have one name")
        if unhashed := [record.name for record in self.shards if "bin" not in record.sha256]:
            raise ValueError(f"the shard {unhashed[0]} has no sha256.bin")
        for key, holder in (("files", self.sources), ("bytes", self.sources), ("shard_tokens", self.options)):
            if type(holder.get(key, 0)) is not int:
                raise ValueError(f"{key} is {holder[key]!r}")
        for name in self.listings:
            if Path(name).name != name or "\0" in name:
                raise ValueError(f"{name!r} is not the name of a listing")

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "Manifest":
        """Read `directory`/manifest.json.

        Raises:
            UserError: The directory or its manifest does not exist, or the manifest is malformed, was modified or
                has another format version.
        """
        directory = Path(directory)
        path = directory / FILE_NAME
        if not directory.is_dir():
            raise UserError(f"{directory}: no such directory; `gpt2dist preprocess` makes a dataset directory")
        if not os.path.lexists(path):
            raise UserError(
                f"{directory}: not a dataset directory, it has no {FILE_NAME}; `gpt2dist preprocess` makes one"
            )
        content = json_files.require(path, _AGAIN, limit=MAX_BYTES)
        if content.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{path}: format version {content.get('format_version')!r}; this gpt2dist reads version "
                f"{FORMAT_VERSION}: use the gpt2dist that wrote it, or preprocess the corpus again"
            )
        return cls._parse(content, path)

    @classmethod
    def _parse(cls, content: dict[str, Any], path: Path) -> "Manifest":
        missing = [item.name for item in fields(cls) if item.name != "directory" and item.name not in content]
        if missing:
            raise UserError(f"{path}: malformed ({missing[0]} is missing); {_AGAIN}")
        try:
            manifest = json_files.build(cls, {key: value for key, value in content.items() if key != "directory"})
        except ValueError as error:
            raise UserError(f"{path}: malformed ({error}); {_AGAIN}") from None
        object.__setattr__(manifest, "directory", path.parent)
        if content.get("fingerprint") != manifest.fingerprint:
            raise UserError(f"{path}: was changed after it was written (its fingerprint differs); {_AGAIN}")
        return manifest

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `directory`/manifest.json durably and atomically (by rename)."""
        content = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "directory"}
        content["shards"] = [asdict(record) for record in self.shards]
        content["totals"] = {split: asdict(self.totals(split)) for split in self.splits}
        content["fingerprint"] = self.fingerprint
        atomic_io.write_json(Path(directory) / FILE_NAME, content)
        object.__setattr__(self, "directory", Path(directory))

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the tokenizer's fingerprint and the shards' names and hashes, in order."""
        shards = [[record.name, record.sha256["bin"], record.sha256.get("idx")] for record in self.shards]
        return hashlib.sha256(json.dumps([self.tokenizer_fingerprint, shards]).encode()).hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have tokens, in the order of the shards."""
        return tuple(dict.fromkeys(record.split for record in self.shards))

    def shards_of(self, split: str) -> tuple[ShardRecord, ...]:
        """Return the shards of a split in stream order.

        Raises:
            UserError: The split does not exist or is empty.
        """
        found = tuple(record for record in self.shards if record.split == split)
        if not found:
            way_out = "; `gpt2dist preprocess --val-fraction 0.01` sets documents aside" if split == "val" else ""
            raise UserError(
                f"{self.directory}: no split {split!r}; it has {', '.join(self.splits) or 'none'}{way_out}"
            )
        return found

    def totals(self, split: str) -> Totals:
        """Return the sums over the shards of `split`.

        Raises:
            UserError: The split does not exist or is empty.
        """
        return _sum(self.shards_of(split))


def _sum(records: Iterable[ShardRecord]) -> Totals:
    records = tuple(records)
    return Totals(*(sum(getattr(record, item.name) for record in records) for item in fields(Totals)))
