"""Create datasets from token files that other tools wrote. The files stay where they are.

Each file is read once, to hash it, check every token against the vocabulary and count the documents. The same
pass counts the bytes and words of the decoded text, which bits per byte and word perplexity need.
"""

import glob
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2dist import atomic_io
from gpt2dist.dataset.dataset import ShardReader, index_file, open_shard, token_file
from gpt2dist.dataset.flat_formats import BLOCK, header_of_another_format
from gpt2dist.dataset.manifest import Manifest, ShardRecord
from gpt2dist.dataset.text_counter import TextCounter
from gpt2dist.errors import UserError
from gpt2dist.output_paths import check_new_directory, new_directory
from gpt2dist.tokenizer.choose import choose_tokenizer
from gpt2dist.tokenizer.text_changes import described
from gpt2dist.tokenizer.tokenizer import Tokenizer

RAW_DTYPES = ("uint16", "int32", "uint32", "int64")
PROBED = 1 << 16
"""Tokens at the start of each file that are checked before any file is read completely."""
_VAL = re.compile(r"(?:^|[^a-z])(?:val|valid|validation)(?:[^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Adoption:
    """Files to adopt, and the dataset directory to create from them.

    Attributes:
        paths: Files, directories and globs; for Megatron's format also paths without `.bin` and `.idx`.
        format: One of `manifest.FORMATS`.
        tokenizer: A directory with tokenizer.json, that file, or a name on the hub.
        output: The dataset directory to create.
        val: Paths, as above, that form the split "val" whatever their names.
        dtype: One of `RAW_DTYPES` for files of nanoGPT's format; "" is its uint16. Other formats contain theirs.
        lossy: Whether to accept a tokenizer that may lose some of the text.
    """

    paths: tuple[str, ...]
    format: str
    tokenizer: str
    output: Path
    val: tuple[str, ...] = ()
    dtype: str = ""
    lossy: bool = False


def adopt(
    adoption: Adoption,
    on_bytes: Callable[[int, int], None] = lambda count, total: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> Manifest:
    """Create a dataset directory whose shards are existing token files.

    Args:
        adoption: The files and the dataset directory.
        on_bytes: Called with the bytes of tokens read since the last call, and with the total to read.
        on_warning: Called with each warning.

    Returns:
        The manifest of the dataset.

    Raises:
        UserError: The output directory is not empty; a file is missing, damaged or of another format; the files
            differ in dtype or seem to have another one; or a token is not in the tokenizer's vocabulary.
    """
    output = adoption.output
    check_new_directory(output)
    tokenizer = choose_tokenizer(adoption.tokenizer, adoption.lossy)
    _check_dtype(adoption, tokenizer)
    changes = _text_changes(tokenizer)
    if changes:
        on_warning(described(changes))
    files = _find_split(adoption)
    empty = _manifest(adoption, tokenizer, _common_dtype(adoption, tokenizer, files), ())
    total = sum(token_file(empty, record)[0].stat().st_size for record in files)
    records, text = [], TextCounter(tokenizer)
    for record in files:
        records.append(_measure(empty, record, tokenizer, text, lambda count: on_bytes(count, total)))
        if problem := _unmarked(empty, records[-1]):
            on_warning(problem)
    listing = "".join(json.dumps(_source(path)) + "\n" for record in records for path in _files(empty, record))
    with new_directory(output) as partial:
        tokenizer.save(partial)
        atomic_io.write_text(partial / "sources.jsonl", listing)
        _manifest(adoption, tokenizer, np.dtype(empty.dtype), records, listing).save(partial)
    return Manifest.load(output)


# --- Finding the files ------------------------------------------------------------------------------------


def _find_split(adoption: Adoption) -> list[ShardRecord]:
    """Return the files as records without counts: first train, then val."""
    named = [("val" if _VAL.search(path.name) else "train", path) for path in _expand(adoption, adoption.paths)]
    named += [("val", path) for path in _expand(adoption, adoption.val)]
    chosen = {path: split for split, path in named}  # --val takes precedence over the file name
    records = []
    for wanted in ("train", "val"):
        mine = sorted((path for path, split in chosen.items() if split == wanted), key=_natural)
        records += [
            ShardRecord(f"{wanted}-{number:05d}", wanted, 0, 0, 0, 0, {}, adoption.format, str(path))
            for number, path in enumerate(mine)
        ]
    return records


def _expand(adoption: Adoption, names: Iterable[str]) -> list[Path]:
    """Return the absolute paths of the shards that `names` select: without suffix for Megatron's format."""
    found: list[Path] = []
    suffix = ".idx" if adoption.format == "megatron" else ".bin"
    for name in names:
        path = Path(name)
        if path.is_dir():
            matches = sorted(path.glob(f"*{suffix}"))
            if not matches:
                raise UserError(f"{name}: no {suffix} file in this directory")
        elif glob.has_magic(name) and not path.exists():
            matches = [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207, can be absolute
            if not matches:
                raise UserError(f"{name}: this pattern matches no file")
        else:
            matches = [path]
        found += [_without_suffix(match) if adoption.format == "megatron" else match for match in matches]
    return [path.absolute() for path in found]


def _without_suffix(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in (".bin", ".idx") else path


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that orders numbers in names by value: part 10 comes after part 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _files(manifest: Manifest, record: ShardRecord) -> list[Path]:
    index = index_file(manifest, record)
    return [token_file(manifest, record)[0], *([index] if index else [])]


def _source(path: Path) -> dict:
    status = path.stat()
    return {"path": str(path), "size": status.st_size, "version": str(status.st_mtime_ns)}


# --- Reading the files ------------------------------------------------------------------------------------


def _common_dtype(adoption: Adoption, tokenizer: Tokenizer, files: Sequence[ShardRecord]) -> np.dtype:
    """Return the dtype of the tokens, which must be the same in all files."""
    probe = _manifest(adoption, tokenizer, np.dtype(adoption.dtype or "uint16"), ())
    dtypes = {}
    for record in files:
        shard = open_shard(probe, record)
        _check_start(adoption, probe, record, shard, tokenizer)
        dtypes[record.path] = shard.dtype.newbyteorder("=")
    first, dtype = next(iter(dtypes.items()))
    for path, other in dtypes.items():
        if other != dtype:
            raise UserError(
                f"{first} has {dtype.name} tokens, {path} has {other.name}: a dataset has tokens of one dtype; "
                "adopt them as two datasets, and train on both"
            )
    return dtype


def _check_dtype(adoption: Adoption, tokenizer: Tokenizer) -> None:
    """Check that --dtype is given where it is needed, and can hold the ids."""
    if adoption.format != "nanogpt":
        if adoption.dtype:
            raise UserError(f"--dtype: files of {adoption.format} contain their dtype; omit the option")
        return
    if np.iinfo(adoption.dtype or "uint16").max < tokenizer.vocab_size - 1:
        given = f"--dtype {adoption.dtype}" if adoption.dtype else "--dtype is missing, and nanoGPT's 16 bits"
        wider = ", ".join(RAW_DTYPES[1:])
        raise UserError(
            f"{given}: cannot hold the {tokenizer.vocab_size:,} ids of {adoption.tokenizer}; name the type of "
            f"the tokens in the files: {wider}"
        )


def _check_start(
    adoption: Adoption, manifest: Manifest, record: ShardRecord, shard: ShardReader, tokenizer: Tokenizer
) -> None:
    """Check the start of a file for signs that it has another format, dtype or tokenizer."""
    path, tokens = token_file(manifest, record)[0], shard.tokens[:PROBED]
    if adoption.format == "nanogpt" and (other := header_of_another_format(path)):
        raise UserError(f"{path}: is {other}")
    # Every second character can be the same, such as a space. Then trust the option or the file.
    certain = adoption.format != "nanogpt" or adoption.dtype
    width = _width_of_tokens(tokens, tokenizer.vocab_size) if tokenizer.is_byte_level or not certain else 0
    if width:
        bits = 8 * tokens.dtype.itemsize
        ways = {
            "nanogpt": f"name the type of its tokens with --dtype int{width}",
            "llmc": "its header names another type than its tokens have: write it again",
            "megatron": "its index names another type than its tokens have: write it again",
        }
        also = "" if tokenizer.is_byte_level else f" (or with --dtype {tokens.dtype.name}, if that is right)"
        times, largest = width // bits, (tokenizer.vocab_size - 1) >> bits
        which = "every second token is" if times == 2 else f"{times - 1} of every {times} tokens are"
        raise UserError(
            f"{path}: read as {bits} bits a token, {which} {f'at most {largest}' if largest else '0'}, as the "
            f"upper parts of {width}-bit tokens are; {ways[adoption.format]}{also}"
        )
    _check_vocabulary(path, tokens, 0, tokenizer, record)


def _width_of_tokens(tokens: NDArray[np.integer], vocab_size: int) -> int:
    """Return the bits per token that a file seems to have if they are more than those of its dtype, else 0.

    Wider tokens that are read as narrow ones alternate between the lower part of an id and its upper parts, which
    are no larger than those of the largest id: 0 in most vocabularies.
    """
    bits = 8 * tokens.dtype.itemsize
    small = tokens.view(f"u{tokens.dtype.itemsize}") <= (vocab_size - 1) >> bits
    for width in (64, 32, 16):
        times = width // bits
        rows = small[: len(small) // times * times].reshape(-1, times) if times > 1 else small[:0]
        if len(rows) < 8:
            continue
        shares = np.sort(rows.mean(axis=0))
        if shares[0] < 0.9 and shares[1] > 0.99:
            return width
    return 0


def _measure(
    manifest: Manifest,
    record: ShardRecord,
    tokenizer: Tokenizer,
    text: TextCounter,
    on_bytes: Callable[[int], None],
) -> ShardRecord:
    """Read a shard and return its record, with hashes and counts."""
    shard = open_shard(manifest, record)
    ends = shard.document_ends  # also checks the index
    hashes = {"bin": hashlib.sha256()}
    data = token_file(manifest, record)[0]
    with open(data, "rb") as file:
        hashes["bin"].update(file.read(data.stat().st_size - shard.tokens.nbytes))  # the header, if any
    index = index_file(manifest, record)
    if index:
        hashes["idx"] = hashlib.sha256(index.read_bytes())
    text.restart()
    for start in range(0, len(shard), BLOCK):
        tokens = shard.tokens[start : start + BLOCK]
        hashes["bin"].update(tokens.data)
        _check_vocabulary(data, tokens, start, tokenizer, record)
        text.add(tokens)
        on_bytes(tokens.nbytes)
    text.close()
    return ShardRecord(
        name=record.name,
        split=record.split,
        tokens=len(shard),
        documents=len(ends),
        bytes=text.bytes,
        words=text.words,
        sha256={kind: found.hexdigest() for kind, found in hashes.items()},
        format=record.format,
        path=record.path,
        lm_eval_words=text.lm_eval_words(len(ends)),
    )


def _check_vocabulary(
    path: Path, tokens: NDArray[np.integer], start: int, tokenizer: Tokenizer, record: ShardRecord
) -> None:
    strange = np.flatnonzero((tokens >= tokenizer.vocab_size) | (tokens < 0))
    if strange.size:
        place = start + int(strange[0])
        other = f"its format is not {record.format}"
        if record.format == "nanogpt":
            other += f", or its tokens are not of the type {tokens.dtype.name} (--dtype)"
        raise UserError(
            f"{path}: token {place:,} is {int(tokens[strange[0]])}, and the tokenizer has {tokenizer.vocab_size} "
            f"ids; most likely the file was made with another tokenizer, or {other}"
        )


def _unmarked(manifest: Manifest, record: ShardRecord) -> str:
    """Return a warning if end-of-text does not separate the documents, else an empty string."""
    shard: ShardReader = open_shard(manifest, record)
    path = token_file(manifest, record)[0]
    if record.format != "megatron":
        marked = record.documents > 1 or manifest.end_of_text_id in (shard.tokens[0], shard.tokens[-1])
        if marked:
            return ""
        return (
            f"{path}: holds no end-of-text (id {manifest.end_of_text_id}): it is one document, or was made with "
            "another tokenizer; `gpt2dist inspect` shows its text with --window"
        )
    ends = shard.document_ends
    last = shard.tokens[ends[ends > 0] - 1]
    missing = int(np.count_nonzero(last != manifest.end_of_text_id))
    if not missing:
        return ""
    return (
        f"{path}: {missing:,} of {last.size:,} documents do not end with end-of-text "
        f"(id {manifest.end_of_text_id}), so nothing separates them; Megatron's "
        "preprocess_data.py appends it with --append-eod"
    )


def _manifest(
    adoption: Adoption, tokenizer: Tokenizer, dtype: np.dtype, records: Sequence[ShardRecord], listing: str = ""
) -> Manifest:
    lines = [json.loads(line) for line in listing.splitlines()]
    return Manifest(
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        end_of_text_id=tokenizer.end_of_text_id,
        tokenizer_source=tokenizer.hub_source,
        dtype=dtype.name,
        options={"adopted": adoption.format},
        sources={
            "files": len(lines),
            "bytes": sum(line["size"] for line in lines),
            "listing_sha256": atomic_io.sha256_of_text(listing),
        },
        shards=tuple(records),
        listings={"sources.jsonl": atomic_io.sha256_of_text(listing)},
        text_changes=_text_changes(tokenizer),
    )


def _text_changes(tokenizer: Tokenizer) -> dict:
    return tokenizer.text_changes and tokenizer.text_changes | {"bytes_of": "tokens"}
