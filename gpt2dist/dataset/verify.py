"""Verify a dataset against its manifest and the rules of the format. All files are read."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2dist import json_files
from gpt2dist.atomic_io import sha256_of
from gpt2dist.dataset.dataset import ShardReader, index_file, open_shard, token_file
from gpt2dist.dataset.manifest import Manifest, ShardRecord
from gpt2dist.dataset.provenance import ORIGIN, PIECES_NAME, SUFFIX
from gpt2dist.errors import UserError
from gpt2dist.tokenizer.token_bytes import TokenBytes
from gpt2dist.tokenizer.tokenizer import Tokenizer

BLOCK = 1 << 20
"""Tokens processed at a time."""
MOST_LISTED = 10


def verify(manifest: Manifest, on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """Check all files of a dataset against its manifest and the rules of the format.

    The checks cover the hashes and sizes of all files; the index against the tokens; documents, tokens and bytes
    of text against the manifest; each id against the vocabulary; and the listings beside the shards. In datasets
    that `preprocess` made, end-of-text must be at the end of each document and nowhere else, and shards must
    respect their size limit. Words are not counted.

    Args:
        manifest: The manifest, as loaded.
        on_bytes: Called with the bytes of tokens read since the last call.

    Raises:
        UserError: A file is missing, differs or breaks a rule; the message lists up to ten problems.
    """
    problems = [*_tokenizer(manifest)]
    # Without the tokenizer, only the bytes of text cannot be checked.
    text = None if problems else TokenBytes(Tokenizer.load(manifest.directory))
    pieces = _lines(manifest.directory / PIECES_NAME)
    for record in manifest.shards:
        problems += _shard(manifest, record, text, pieces, on_bytes)
    problems += _listings(manifest)
    if problems:
        more = f"\n  … and {len(problems) - MOST_LISTED} more" if len(problems) > MOST_LISTED else ""
        raise UserError(
            f"{manifest.directory}: damaged; copy the dataset again, or preprocess the corpus again\n  "
            + "\n  ".join(problems[:MOST_LISTED])
            + more
        )


def token_bytes(manifest: Manifest) -> int:
    """Return the bytes of all tokens, which `verify` reads."""
    return sum(record.tokens for record in manifest.shards) * np.dtype(manifest.dtype).itemsize


def _tokenizer(manifest: Manifest) -> Iterator[str]:
    try:
        tokenizer = Tokenizer.load(manifest.directory)
    except UserError as error:
        yield str(error)
        return
    there = tokenizer.fingerprint, tokenizer.vocab_size, tokenizer.end_of_text_id
    if there != (manifest.tokenizer_fingerprint, manifest.vocab_size, manifest.end_of_text_id):
        yield f"{manifest.directory / 'tokenizer.json'}: not the tokenizer that the dataset was made with"


def _shard(
    manifest: Manifest, record: ShardRecord, text: TokenBytes | None, pieces: int, on_bytes: Callable[[int], None]
) -> Iterator[str]:
    data, _ = token_file(manifest, record)
    index = index_file(manifest, record)
    files = [("bin", data), ("idx", index), ("origins", _origins_file(manifest, record))]
    missing = [path for kind, path in files if path and kind in record.sha256 and not path.is_file()]
    if missing:
        yield from (f"{path}: missing" for path in missing)
        return
    for kind, path in files[1:]:
        if path and kind in record.sha256 and sha256_of(path) != record.sha256[kind]:
            yield _differs(path)
    try:
        shard = open_shard(manifest, record)
        ends = shard.document_ends
    except UserError as error:
        yield str(error)
        return
    if (len(shard), len(ends)) != (record.tokens, record.documents):
        yield (
            f"{data}: holds {len(shard):,} tokens in {len(ends):,} documents, the manifest says "
            f"{record.tokens:,} in {record.documents:,}"
        )
    yield from _tokens(manifest, record, shard, text, on_bytes)
    limit = manifest.options.get("shard_tokens")
    if limit and len(shard) > limit and len(ends) > 1:
        yield f"{data}: holds {len(shard):,} tokens in several documents, more than shard_tokens {limit:,}"
    if "origins" in record.sha256:
        yield from _origins(manifest, record, pieces)


def _tokens(
    manifest: Manifest,
    record: ShardRecord,
    shard: ShardReader,
    text: TokenBytes | None,
    on_bytes: Callable[[int], None],
) -> Iterator[str]:
    """Check hash, vocabulary range, bytes of text and end-of-text positions in one pass over the tokens."""
    path, _ = token_file(manifest, record)
    found = hashlib.sha256()
    with open(path, "rb") as file:
        found.update(file.read(path.stat().st_size - shard.tokens.nbytes))  # the header, if any
    size, ends, strange, misplaced = 0, shard.document_ends, -1, -1
    ours = "adopted" not in manifest.options
    for start in range(0, len(shard), BLOCK):
        tokens = shard.tokens[start : start + BLOCK]
        found.update(tokens.data)
        on_bytes(tokens.nbytes)
        wrong = np.flatnonzero((tokens >= manifest.vocab_size) | (tokens < 0))
        if wrong.size:
            strange = start + int(wrong[0]) if strange < 0 else strange
            continue
        size += int(text.lengths[tokens].sum()) if text else 0
        if ours and misplaced < 0:
            misplaced = _misplaced(tokens, start, ends, manifest.end_of_text_id)
    if found.hexdigest() != record.sha256["bin"]:
        yield _differs(path)
    if strange >= 0:
        token = shard.tokens[strange]
        yield f"{path}: token {strange:,} is {token}, and the vocabulary has {manifest.vocab_size}"
    elif text and size != record.bytes:
        yield f"{path}: its tokens stand for {size:,} bytes of text, the manifest says {record.bytes:,}"
    if misplaced >= 0:
        yield f"{path}: at token {misplaced:,} end-of-text and the end of a document do not coincide"


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
        yield f"{path}: names places that {manifest.directory / PIECES_NAME} does not have"


def _listings(manifest: Manifest) -> Iterator[str]:
    for name, expected in manifest.listings.items():
        path = manifest.directory / name
        if not path.is_file():
            yield f"{path}: missing"
        elif sha256_of(path) != expected:
            yield _differs(path)
    named = {record.name for record in manifest.shards}
    for path in sorted(manifest.directory.iterdir()):
        if path.suffix in (".bin", ".idx", SUFFIX) and path.stem not in named:
            yield f"{path}: not in the manifest"


def _origins_file(manifest: Manifest, record: ShardRecord) -> Path:
    return manifest.directory / (record.name + SUFFIX)


def _lines(path: Path) -> int:
    try:
        return sum(1 for _ in json_files.read_lines(path))
    except (OSError, ValueError):  # missing, or damaged, which its hash shows
        return 0


def _differs(path: Path) -> str:
    return f"{path}: its content differs from what was written (sha256)"
