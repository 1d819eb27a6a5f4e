"""Verify a dataset against its manifest and the rules of the format. All files are read."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2dist import json_files
from gpt2dist.atomic_io import sha256_of
from gpt2dist.corpus.documents import Source
from gpt2dist.corpus.identity import content_sha256
from gpt2dist.dataset.dataset import ShardReader, index_file, open_shard, token_file
from gpt2dist.dataset.manifest import (
    AGAIN,
    FILE_NAME,
    MAX_BYTES,
    SHA256_KEY,
    Manifest,
    ShardRecord,
    canonical_sha256,
)
from gpt2dist.dataset.provenance import ORIGIN, PIECES_NAME, SUFFIX
from gpt2dist.dataset.text_counter import TextCounter
from gpt2dist.errors import UserError
from gpt2dist.tokenizer.tokenizer import Tokenizer

BLOCK = 1 << 20
"""Tokens processed at a time."""
MOST_LISTED = 10
REJECTED_NAME, FILTERED_NAME = "rejected.jsonl", "filtered.jsonl"


def verify(manifest: Manifest, on_bytes: Callable[[int], None] = lambda count: None, seal: bool = False) -> None:
    """Check all files of a dataset against its manifest and the rules of the format.

    Everything that the files determine is recomputed and compared with the manifest: the hashes and sizes of all
    files; tokens, documents, bytes and words of each shard and their sums; dtype, vocabulary and end-of-text
    against the tokenizer; each id against the vocabulary; and the listings beside the shards. In datasets that
    `preprocess` made, end-of-text must be at the end of each document and nowhere else, and shards must respect
    their size limit. Some values need the corpus and are not checked: `options`, `left_out`, `repaired`, the
    numbers in `text_changes`, and the bytes and words of text that a lossy or normalizing tokenizer changed.

    Args:
        manifest: The manifest, as loaded.
        on_bytes: Called with the bytes of tokens read since the last call.
        seal: Whether to write the manifest again if everything agrees, with a new `manifest_sha256`.

    Raises:
        UserError: A file is missing, differs or breaks a rule; the message lists up to ten problems. Or the
            manifest was changed, and `seal` is not set or the file cannot be written.
    """
    tokenizer, problems = _tokenizer(manifest)
    text = TextCounter(tokenizer) if tokenizer and _counted_by_tokens(manifest) else None
    problems += _sums(manifest)
    pieces = _lines(manifest.directory / PIECES_NAME)
    for record in manifest.shards:
        problems += _shard(manifest, record, tokenizer, text, pieces, on_bytes)
    problems += _listings(manifest)
    changed = [] if seal else [*_changed(manifest)]
    if problems:
        problems = changed + problems
        more = f"\n  … and {len(problems) - MOST_LISTED} more" if len(problems) > MOST_LISTED else ""
        raise UserError(
            f"{manifest.directory}: damaged; copy the dataset again, or preprocess the corpus again\n  "
            + "\n  ".join(problems[:MOST_LISTED])
            + more
        )
    if changed:
        raise UserError(
            f"{changed[0]}, but it agrees with the files; restore it from a copy, or accept it "
            f"as it is with `gpt2dist inspect {manifest.directory} --verify --seal`"
        )
    if seal:
        _seal(manifest)


def _seal(manifest: Manifest) -> None:
    try:
        manifest.save(manifest.directory)
    except OSError as error:
        path = manifest.directory / FILE_NAME
        raise UserError(f"{path}: cannot be written ({error.strerror}); give write permission") from None


def token_bytes(manifest: Manifest) -> int:
    """Return the bytes of all tokens, which `verify` reads."""
    return sum(record.tokens for record in manifest.shards) * np.dtype(manifest.dtype).itemsize


def _tokenizer(manifest: Manifest) -> tuple[Tokenizer | None, list[str]]:
    """Return the tokenizer if it is the one of the dataset, and how the manifest differs from it."""
    try:
        tokenizer = Tokenizer.load(manifest.directory)
    except UserError as error:
        return None, [str(error)]
    if tokenizer.fingerprint != manifest.tokenizer_fingerprint:
        return None, [
            f"{manifest.directory / 'tokenizer.json'}: not the tokenizer that the dataset was made with"
        ]
    path = manifest.directory / FILE_NAME
    pairs = (("vocab_size", tokenizer.vocab_size), ("end_of_text_id", tokenizer.end_of_text_id))
    problems = [
        f"{path}: {key} is {getattr(manifest, key)}, that of the tokenizer is {expected}"
        for key, expected in pairs
        if getattr(manifest, key) != expected
    ]
    # The wording of a loss may differ between versions, and version 0.1 recorded none.
    problems += [
        f"{path}: text_changes says {key!r}, which is not true of the tokenizer"
        for key in ("normalizer", "lossy")
        if key in manifest.text_changes and key not in tokenizer.text_changes
    ]
    return tokenizer, problems


def _changed(manifest: Manifest) -> Iterator[str]:
    content = _content(manifest)
    if SHA256_KEY in content and content[SHA256_KEY] != canonical_sha256(content):
        yield f"{manifest.directory / FILE_NAME}: was changed after it was written (its {SHA256_KEY} differs)"


def _sums(manifest: Manifest) -> Iterator[str]:
    """Compare the sums in the file, which `Manifest` computes instead of reading them."""
    sums = {split: asdict(manifest.totals(split)) for split in manifest.splits}
    for each in sums.values():
        if each["lm_eval_words"] is None:  # older manifests have no such count
            del each["lm_eval_words"]
    if (found := _content(manifest).get("totals")) != sums:
        yield f"{manifest.directory / FILE_NAME}: totals are {found}, and those of its shards {sums}"


def _content(manifest: Manifest) -> dict[str, Any]:
    content: dict[str, Any] = json_files.require(manifest.directory / FILE_NAME, AGAIN, limit=MAX_BYTES)
    return content


def _shard(
    manifest: Manifest,
    record: ShardRecord,
    tokenizer: Tokenizer | None,
    text: TextCounter | None,
    pieces: int,
    on_bytes: Callable[[int], None],
) -> Iterator[str]:
    data, _ = token_file(manifest, record)
    index = index_file(manifest, record)
    files = [("bin", data), ("idx", index), ("origins", _origins_file(manifest, record))]
    missing = [path for kind, path in files if path and kind in record.sha256 and not path.is_file()]
    if missing:
        yield from (f"{path}: missing" for path in missing)
        return
    for kind, path in files:
        if path and kind not in record.sha256 and path.is_file():
            yield f"{path}: the manifest has no sha256 of it"
    for kind, path in files[1:]:
        if path and kind in record.sha256 and sha256_of(path) != record.sha256[kind]:
            yield _differs(path)
    try:
        shard = open_shard(manifest, record)
        ends = shard.document_ends
    except UserError as error:
        yield str(error)
        return
    if shard.dtype != np.dtype(manifest.dtype):
        yield f"{data}: holds tokens of {shard.dtype.name}, the manifest says {manifest.dtype}"
    if record.format != manifest.options.get("adopted", "megatron"):
        yield f"{data}: has the format {record.format}, unlike the dataset"
    if (len(shard), len(ends)) != (record.tokens, record.documents):
        yield (
            f"{data}: holds {len(shard):,} tokens in {len(ends):,} documents, the manifest says "
            f"{record.tokens:,} in {record.documents:,}"
        )
    yield from _tokens(manifest, record, shard, tokenizer, text, on_bytes)
    limit = manifest.options.get("shard_tokens")
    if limit and len(shard) > limit and len(ends) > 1:
        yield f"{data}: holds {len(shard):,} tokens in several documents, more than shard_tokens {limit:,}"
    if "origins" in record.sha256:
        yield from _origins(manifest, record, pieces)


def _tokens(
    manifest: Manifest,
    record: ShardRecord,
    shard: ShardReader,
    tokenizer: Tokenizer | None,
    text: TextCounter | None,
    on_bytes: Callable[[int], None],
) -> Iterator[str]:
    """Check hash, vocabulary range, bytes and words, and end-of-text positions in one pass over the tokens."""
    path, _ = token_file(manifest, record)
    found = hashlib.sha256()
    with open(path, "rb") as file:
        found.update(file.read(path.stat().st_size - shard.tokens.nbytes))  # the header, if any
    ends, strange, misplaced = shard.document_ends, -1, -1
    facts = tokenizer or manifest
    if text:
        text.restart()
    ours = "adopted" not in manifest.options
    for start in range(0, len(shard), BLOCK):
        tokens = shard.tokens[start : start + BLOCK]
        found.update(tokens.data)
        on_bytes(tokens.nbytes)
        wrong = np.flatnonzero((tokens >= facts.vocab_size) | (tokens < 0))
        if wrong.size:
            strange = start + int(wrong[0]) if strange < 0 else strange
            continue
        if text and strange < 0:
            text.add(tokens)
        if ours and misplaced < 0:
            misplaced = _misplaced(tokens, start, ends, facts.end_of_text_id)
    if found.hexdigest() != record.sha256["bin"]:
        yield _differs(path)
    if strange >= 0:
        token = shard.tokens[strange]
        yield f"{path}: token {strange:,} is {token}, and the vocabulary has {facts.vocab_size}"
    elif text:
        text.close()
        for kind, found_there, said in (("bytes", text.bytes, record.bytes), ("words", text.words, record.words)):
            if found_there != said:
                yield f"{path}: its tokens encode {found_there:,} {kind} of text, the manifest says {said:,}"
        counted = text.lm_eval_words(record.documents)
        if record.lm_eval_words is not None and record.lm_eval_words != counted:
            yield f"{path}: its lm_eval_words are {counted}, the manifest says {record.lm_eval_words:,}"
    if misplaced >= 0:
        yield f"{path}: at token {misplaced:,} end-of-text and the end of a document do not coincide"


def _counted_by_tokens(manifest: Manifest) -> bool:
    """Return whether the bytes in the manifest are those of the tokens, and not of a source that they change."""
    return not manifest.text_changes or manifest.text_changes.get("bytes_of") == "tokens"


def _misplaced(tokens: NDArray[np.integer], start: int, ends: NDArray[np.int64], end_of_text_id: int) -> int:
    """Return the first token of a block that is end-of-text inside a document or ends one without it, else −1."""
    marks = start + np.flatnonzero(tokens == end_of_text_id)
    first, last = np.searchsorted(ends, [start + 1, start + len(tokens) + 1])
    different = np.setxor1d(marks, ends[first:last] - 1, assume_unique=True)
    return int(different[0]) if different.size else -1


def _origins(manifest: Manifest, record: ShardRecord, pieces: int) -> Iterator[str]:
    path = _origins_file(manifest, record)
    origins, size = np.fromfile(path, ORIGIN), path.stat().st_size
    if size != record.documents * ORIGIN.itemsize:
        yield f"{path}: has {size:,} bytes, and its {record.documents:,} documents have {ORIGIN.itemsize} each"
    elif len(origins) and (int(origins["piece"].max()) >= pieces or int(origins["line"].min()) < 1):
        yield f"{path}: refers to places that {manifest.directory / PIECES_NAME} does not have"


def _listings(manifest: Manifest) -> Iterator[str]:
    names = {"sources.jsonl"} if "adopted" in manifest.options else {"sources.jsonl", PIECES_NAME, REJECTED_NAME}
    if manifest.filtered:
        names.add(FILTERED_NAME)
    for name in sorted(names - manifest.listings.keys()):
        yield f"{manifest.directory / name}: the manifest has no sha256 of it"
    for name, expected in manifest.listings.items():
        path = manifest.directory / name
        if not path.is_file():
            yield f"{path}: missing"
        elif sha256_of(path) != expected:
            yield _differs(path)
        elif name == "sources.jsonl":
            yield from _sources(manifest, path, expected)
        elif name == REJECTED_NAME:
            yield from _rejected(manifest, path)
        elif name == FILTERED_NAME and (listed := _lines(path)) != manifest.filtered:
            yield f"{path}: lists {listed:,} documents, the manifest says {manifest.filtered:,}"
    named = {record.name for record in manifest.shards}
    for path in sorted(manifest.directory.iterdir()):
        if path.suffix in (".bin", ".idx", SUFFIX) and path.stem not in named:
            yield f"{path}: not in the manifest"


def _sources(manifest: Manifest, path: Path, sha256: str) -> Iterator[str]:
    try:
        lines = [*json_files.require_lines(path, {"path": str, "size": int}, AGAIN)]
        sizes = [line["size"] for line in lines]
        found = {"files": len(sizes), "bytes": sum(sizes), "listing_sha256": sha256}
        if "content_sha256" in manifest.sources:
            found["content_sha256"] = content_sha256([Source(**line) for line in lines])
    except UserError as error:
        yield str(error)
        return
    except TypeError as error:
        yield f"{path}: malformed ({error}); {AGAIN}"
        return
    for key, value in found.items():
        if manifest.sources.get(key) != value:
            yield f"{path}: its {key} are {value}, the manifest says {manifest.sources.get(key)}"


def _rejected(manifest: Manifest, path: Path) -> Iterator[str]:
    listed, said = _lines(path), manifest.left_out.get("rejected", 0)
    if listed > said or (said and not listed):  # one line may stand for several documents
        yield f"{path}: lists {listed:,} rejected documents, the manifest says {said:,}"


def _origins_file(manifest: Manifest, record: ShardRecord) -> Path:
    return manifest.directory / (record.name + SUFFIX)


def _lines(path: Path) -> int:
    try:
        return sum(1 for _ in json_files.read_lines(path))
    except (OSError, ValueError):  # missing, or damaged, which its hash shows
        return 0


def _differs(path: Path) -> str:
    return f"{path}: its content differs from what was written (sha256)"
