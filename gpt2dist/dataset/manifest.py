"""The manifest of a dataset directory, `manifest.json`. Needs only the standard library, so it imports fast."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from gpt2dist import atomic_io, json_files
from gpt2dist.errors import UserError
from gpt2dist.tokenizer import text_changes

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
MAX_BYTES = 1 << 30
"""Maximum size of a manifest, enough for some two million shards."""
SHA256_KEY = "manifest_sha256"
TOKEN_DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64")
SPLITS = ("train", "val")
FORMATS = ("megatron", "nanogpt", "llmc")
FILTERED, RECORD = "filter: ", "record: "
"""Prefixes of keys in `Manifest.left_out`: documents that a filter skipped, by its reason; and records of the
corpus that hold no text, by their kind, which are not documents."""
_ADDED_LATER: dict[str, Any] = {"text_changes": {}, "tokenizer_source": ""}
"""Entries that manifests of version 0.1 do not have, with their values for such manifests."""
_TYPES: dict[Any, str] = {
    int: "a whole number of at least 0",
    int | None: "a whole number of at least 0, or null",
    str: "a string",
    dict[str, int]: "an object of whole numbers of at least 0",
    dict[str, str]: "an object of strings",
    dict[str, Any]: "an object",
}
AGAIN = "copy the dataset again, or preprocess the corpus again"
"""What to do with a damaged dataset."""


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
    lm_eval_words: int | None = None
    """Words as lm-evaluation-harness counts them; None if they were not counted, as by version 0.1."""

    def mistakes(self) -> Iterator[str]:
        """Yield a description of each value of a wrong type or out of range."""
        yield from _wrong_types(self)
        if self.split not in SPLITS:
            yield f"split: {self.split!r} is not one of {', '.join(SPLITS)}"
        if self.format not in FORMATS:
            yield f"format: {self.format!r} is not one of {', '.join(FORMATS)}"
        if not re.fullmatch(rf"{self.split}-\d{{1,99}}", self.name):
            yield f"name: {self.name!r:.60} is not the name of a shard of the split {self.split!r}"
        if "\0" in self.path:
            yield f"path: {self.path!r:.60} is not the path of a file"
        if "bin" not in self.sha256:
            yield "sha256: has no bin"


@dataclass(frozen=True)
class Totals:
    """Sums over the shards of a split."""

    tokens: int
    documents: int
    bytes: int
    words: int
    lm_eval_words: int | None = None
    """None if a shard has no such count."""


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
    """"files", "bytes", "listing_sha256", the hash of sources.jsonl, which names every file, and, if `preprocess`
    made the dataset, "content_sha256", which does not depend on where the files are (version 0.1 wrote none)."""
    shards: tuple[ShardRecord, ...]
    """Shards in stream order: train-00000, train-00001, …, val-00000, …"""
    left_out: dict[str, int] = field(default_factory=dict)
    """Number of documents that are not in the shards, by reason: "rejected" (unreadable, listed in
    rejected.jsonl), "empty", "duplicate", "too_short", "too_long", "filter: REASON" (listed in filtered.jsonl).
    Records that hold no text are counted as "record: KIND"."""
    listings: dict[str, str] = field(default_factory=dict)
    """sha256 of the listings beside the shards: sources.jsonl and, if `preprocess` made the dataset, pieces.jsonl
    and rejected.jsonl; filtered.jsonl if it has filters."""
    repaired: int = 0
    """Number of documents in which invalid UTF-8 was replaced by U+FFFD."""
    text_changes: dict[str, Any] = field(default_factory=dict)
    """How the text of the tokens differs from its source; see `tokenizer.text_changes`."""
    tokenizer_source: str = ""
    """NAME@COMMIT of a tokenizer of the Hugging Face hub; empty for others."""
    format_version: int = FORMAT_VERSION
    directory: Path = field(default=Path(), compare=False)
    """Directory that the manifest was loaded from or saved to."""
    sha256: str = field(default="", compare=False)
    """The file's `manifest_sha256`, the hash of all its other keys; empty if it has none (version 0.1)."""

    @classmethod
    def load(cls, directory: str | os.PathLike[str], changed: bool = False) -> "Manifest":
        """Read `directory`/manifest.json.

        Args:
            directory: The dataset directory.
            changed: Whether to accept a file whose `manifest_sha256` does not match, for `verify`.

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
        content = json_files.require(path, AGAIN, limit=MAX_BYTES)
        if content.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{path}: format version {content.get('format_version')!r}; this gpt2dist reads version "
                f"{FORMAT_VERSION}: use the gpt2dist that wrote it, or preprocess the corpus again"
            )
        manifest = cls._parse(content, path)
        if SHA256_KEY in content and not changed and content[SHA256_KEY] != canonical_sha256(content):
            raise UserError(
                f"{path}: was changed after it was written (its {SHA256_KEY} differs); restore it from a copy, "
                f"or preprocess the corpus again. `gpt2dist inspect {directory} --verify` lists where it "
                "disagrees with the files; if you changed it on purpose, add --seal to accept it once it agrees"
            )
        return manifest

    @classmethod
    def _parse(cls, content: dict[str, Any], path: Path) -> "Manifest":
        try:
            content = _ADDED_LATER | content
            values = {name: content[name] for name in _names(cls)}
            values["shards"] = tuple(ShardRecord(**record) for record in content["shards"])
            manifest = cls(**values, directory=path.parent, sha256=str(content.get(SHA256_KEY) or ""))
            wrong = next(manifest._mistakes(), "")
            fingerprint = "" if wrong else manifest.fingerprint
        except KeyError as error:
            raise UserError(f"{path}: malformed ({error.args[0]} is missing); {AGAIN}") from None
        except TypeError as error:
            raise UserError(f"{path}: malformed ({type(error).__name__}: {error}); {AGAIN}") from None
        if wrong:
            raise UserError(f"{path}: malformed ({wrong}); {AGAIN}")
        if content.get("fingerprint") != fingerprint:
            raise UserError(f"{path}: was changed after it was written (its fingerprint differs); {AGAIN}")
        return manifest

    def _mistakes(self) -> Iterator[str]:
        """Yield a description of each value of a wrong type or out of range."""
        yield from _wrong_types(self)
        counts = {key: self.sources[key] for key in ("files", "bytes") if key in self.sources}
        if not _has_type(counts, dict[str, int]):
            yield f"sources: files and bytes should be whole numbers of at least 0, not {counts}"
        try:
            text_changes.check(self.text_changes)
        except TypeError as error:
            yield str(error)
        limit = self.options.get("shard_tokens")
        if limit is not None and not _has_type(limit, int):
            yield f"options.shard_tokens: should be {_TYPES[int]}, not {limit!r:.60}"
        for name in self.listings:
            if Path(name).name != name or "\0" in name:
                yield f"listings: {name!r:.60} is not the name of a file"
        for number, record in enumerate(self.shards):
            yield from (f"shards.{number}.{mistake}" for mistake in record.mistakes())
        names = [record.name for record in self.shards]
        if len(set(names)) < len(names):
            yield "shards: two have the same name"
        if self.end_of_text_id >= self.vocab_size:
            yield f"end_of_text_id: {self.end_of_text_id} is not below vocab_size {self.vocab_size}"
        if self.dtype not in TOKEN_DTYPES:
            yield f"dtype: {self.dtype!r} is not one of {', '.join(TOKEN_DTYPES)}"

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `directory`/manifest.json durably and atomically (by rename)."""
        content = {name: getattr(self, name) for name in _names(type(self))}
        content["shards"] = [asdict(record) for record in self.shards]
        content["totals"] = {split: asdict(self.totals(split)) for split in self.splits}
        content["fingerprint"] = self.fingerprint
        content[SHA256_KEY] = canonical_sha256(content)
        atomic_io.write_json(Path(directory) / FILE_NAME, content)
        object.__setattr__(self, "directory", Path(directory))
        object.__setattr__(self, "sha256", content[SHA256_KEY])

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the tokenizer's fingerprint and the shards' names and hashes, in order."""
        shards = [[record.name, record.sha256["bin"], record.sha256.get("idx")] for record in self.shards]
        return hashlib.sha256(json.dumps([self.tokenizer_fingerprint, shards]).encode()).hexdigest()

    @property
    def filtered(self) -> int:
        """The number of documents that filters skipped."""
        return sum(count for reason, count in self.left_out.items() if reason.startswith(FILTERED))

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


def _sum(records: Sequence[ShardRecord]) -> Totals:
    counted = [record.lm_eval_words for record in records if record.lm_eval_words is not None]
    return Totals(
        tokens=sum(record.tokens for record in records),
        documents=sum(record.documents for record in records),
        bytes=sum(record.bytes for record in records),
        words=sum(record.words for record in records),
        lm_eval_words=sum(counted) if len(counted) == len(records) else None,
    )


def canonical_sha256(content: dict[str, Any]) -> str:
    """Return the hash of a manifest's content: of its JSON with sorted keys, without `manifest_sha256`."""
    others = {key: value for key, value in content.items() if key != SHA256_KEY}
    return hashlib.sha256(json.dumps(others, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def without_sha256(manifests: Iterable[Manifest]) -> str:
    """Return a note about the manifests that have no `manifest_sha256`; empty if all have one."""
    found = list(dict.fromkeys(str(manifest.directory) for manifest in manifests if not manifest.sha256))
    if not found:
        return ""
    return (
        f"{', '.join(found)}: {FILE_NAME} has no {SHA256_KEY} (version 0.1 wrote none), so a change to it would "
        f"go unnoticed; `gpt2dist inspect {found[0]} --verify --seal` checks it and adds one"
    )


def _names(cls: type) -> list[str]:
    """Return the fields that are keys of the file."""
    return [item.name for item in fields(cls) if item.name not in ("directory", "sha256")]


_KINDS = {cls: get_type_hints(cls) for cls in (ShardRecord, Manifest)}
"""Type of each field."""


def _wrong_types(record: Any) -> Iterator[str]:
    for name, kind in _KINDS[type(record)].items():
        value = getattr(record, name)
        if kind in _TYPES and not _has_type(value, kind):
            yield f"{name}: should be {_TYPES[kind]}, not {value!r:.60}"


def _has_type(value: Any, kind: Any) -> bool:
    """Return whether a value of a JSON file is a whole number ≥ 0, a string, or an object of these."""
    if kind == int | None and value is None:
        return True
    if kind in (int, int | None):
        return type(value) is int and value >= 0  # True is an int, too
    if get_origin(kind) is dict:
        of = get_args(kind)[1]
        return isinstance(value, dict) and (of is Any or all(_has_type(each, of) for each in value.values()))
    return isinstance(value, kind)
