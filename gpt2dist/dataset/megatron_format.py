"""The shard format: Megatron-core's indexed dataset, a `.bin` of raw tokens and an `.idx` that locates documents.

Megatron-LM and GPT-NeoX can read the shards of `ShardWriter`, and `Shard` can read theirs. The `.idx` is
little-endian and unpadded: magic, version, dtype code, S sequences, D = documents + 1, then i32[S] lengths in
tokens, i64[S] byte offsets in the `.bin`, i64[D] document boundaries as sequence indices.
"""

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from gpt2dist.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
OLD_MAGIC = b"TNTIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, dtype code, sequences, length of the document array: 34 bytes."""

DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
"""Megatron's codes of the integer types. Codes 6 and 7 are floating point and never used for tokens."""

UINT16_VOCABULARY = 65500
"""Vocabulary size from which Megatron infers int32 instead of uint16; it has no uint32."""


MAX_DOCUMENT_TOKENS = np.iinfo(np.int32).max
"""Longest document in tokens: the index stores lengths as int32."""


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the dtype that Megatron-core expects for a vocabulary of `vocab_size` entries."""
    return np.dtype(np.uint16 if vocab_size < UINT16_VOCABULARY else np.int32)


class HashingFile:
    """File that is written sequentially, hashed while it is written, and renamed into place when complete.

    Args:
        path: The final name. Until `commit`, the data is in a file beside it whose name ends in `.tmp`.
    """

    def __init__(self, path: Path):
        self.path = path
        # The process id keeps an orphaned worker of a killed job from writing into its successor's file.
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self._file: BinaryIO = self._temporary.open("wb")
        self._hash = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        self._file.write(data)
        self._hash.update(data)

    def commit(self) -> str:
        """Sync the file, rename it to its final name, and return its sha256 in hexadecimal."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Delete the temporary file."""
        self._close()
        self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        """Close the file, whose last bytes a full disk may refuse again."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __del__(self) -> None:
        # From 3.13 Python prints a traceback if a file that it collects cannot be closed.
        if hasattr(self, "_file"):
            self._close()


class ShardWriter:
    """Writer of one shard, with one sequence per document.

    As a context manager, it closes the shard on exit and leaves no files after an exception.

    Args:
        path_prefix: Path without `.bin` and `.idx`; its directory must exist.
        dtype: An integer dtype of `DTYPES`, such as `token_dtype` returns.

    Attributes:
        tokens: Tokens added so far.
        documents: Documents added so far.
        sha256: After `close`, the hexadecimal hashes of the two files under "bin" and "idx".
    """

    def __init__(self, path_prefix: str | os.PathLike[str], dtype: np.dtype | type):
        self.prefix = Path(path_prefix)
        self.dtype = np.dtype(dtype)
        self.tokens = 0
        self.documents = 0
        self.sha256: dict[str, str] = {}
        self._code = next(code for code, known in DTYPES.items() if self.dtype == known)
        self._lengths: list[np.ndarray] = []
        self._bin = HashingFile(_file(self.prefix, "bin"))

    def add(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Append documents.

        Args:
            tokens: 1-D integers, the concatenated documents.
            lengths: 1-D integers ≥ 1, tokens in each document; they sum to `tokens.size`.

        Raises:
            ValueError: The lengths do not match the tokens, a document has more than MAX_DOCUMENT_TOKENS tokens,
                or a token does not fit the dtype.
        """
        lengths = np.asarray(lengths, dtype=np.int64)
        limits = np.iinfo(self.dtype)
        if int(lengths.sum()) != tokens.size or (lengths.size and lengths.min() < 1):
            raise ValueError(f"lengths (sum {lengths.sum()}) do not fit {tokens.size} tokens, or one is < 1")
        if lengths.size and lengths.max() > MAX_DOCUMENT_TOKENS:
            raise ValueError("a document of more than 2^31 - 1 tokens does not fit the format")
        if tokens.size and (tokens.min() < limits.min or tokens.max() > limits.max):
            raise ValueError(f"token ids {tokens.min()}…{tokens.max()} do not fit {self.dtype}")
        self._bin.write(np.ascontiguousarray(tokens, dtype=self.dtype.newbyteorder("<")).data.cast("B"))
        self._lengths.append(lengths)
        self.tokens += tokens.size
        self.documents += lengths.size

    def add_document(self, parts: Iterable[np.ndarray]) -> None:
        """Append one document, given in parts, of at most MAX_DOCUMENT_TOKENS tokens in total."""
        length = 0
        for part in parts:
            self._bin.write(np.ascontiguousarray(part, dtype=self.dtype.newbyteorder("<")).data.cast("B"))
            length += part.size
        self._lengths.append(np.array([length]))
        self.tokens += length
        self.documents += 1

    def close(self) -> None:
        """Write the index, then sync both files and rename them into place, the `.idx` last."""
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        pointers = (np.cumsum(lengths) - lengths) * self.dtype.itemsize
        index = HashingFile(_file(self.prefix, "idx"))
        index.write(HEADER.pack(MAGIC, VERSION, self._code, lengths.size, lengths.size + 1))
        index.write(lengths.astype("<i4").tobytes())
        index.write(pointers.astype("<i8").tobytes())
        index.write(np.arange(lengths.size + 1, dtype="<i8").tobytes())
        self.sha256 = {"bin": self._bin.commit(), "idx": index.commit()}

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._bin.discard()


class Shard:
    """Memory-mapped reader of one shard.

    Opening checks only the header and the sizes of both files, whatever the number of documents, so a run over
    thousands of shards starts quickly. `lengths` and `document_ends` read, check and cache the whole index on
    first access.

    Args:
        path_prefix: Path without `.bin` and `.idx`.

    Attributes:
        dtype: The tokens' dtype.
        sequences: Number of sequences; one per document in shards of `ShardWriter`.
        documents: Number of documents.
        tokens: int [tokens], read-only, straight from the page cache.

    Raises:
        UserError: A file is missing, damaged or of another format, or the two files do not match.
    """

    def __init__(self, path_prefix: str | os.PathLike[str]):
        self.prefix = Path(path_prefix)
        self._index = _file(self.prefix, "idx")
        data = _file(self.prefix, "bin")
        for path in (self._index, data):
            if not path.is_file():
                raise UserError(f"{path}: no such file; a shard is a .bin and an .idx of the same name")
        self._read_header()
        self.tokens = self._map(data)

    def __len__(self) -> int:
        """Return the number of tokens in the shard."""
        return int(self.tokens.size)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [sequences]: tokens in each sequence.

        Raises:
            UserError: A length is negative, or the byte offsets do not match the lengths.
        """
        lengths = self._array("<i4", HEADER.size, self.sequences)
        pointers = self._array("<i8", HEADER.size + 4 * self.sequences, self.sequences)
        expected = (np.cumsum(lengths) - lengths) * self.dtype.itemsize
        wrong = np.flatnonzero((pointers != expected) | (lengths < 0))
        if wrong.size:
            raise self._damaged(
                f"sequence {wrong[0]} should start at byte {expected[wrong[0]]} of the .bin, "
                f"the index says {pointers[wrong[0]]} (some old writers overflowed)"
            )
        return lengths

    @cached_property
    def document_ends(self) -> np.ndarray:
        """int64 [documents]: the end of each document, in tokens from the start; empty documents repeat a value.

        Raises:
            UserError: The document array does not rise from 0 to the number of sequences.
        """
        ends = np.cumsum(self.lengths)
        if self._one_document_per_sequence:
            return ends
        boundaries = self._array("<i8", HEADER.size + 12 * self.sequences, self._boundaries)
        if boundaries[0] != 0 or boundaries[-1] != self.sequences or (np.diff(boundaries) < 0).any():
            raise self._damaged(
                f"the document array runs from {boundaries[0]} to {boundaries[-1]}; "
                f"it must rise from 0 to {self.sequences}"
            )
        return np.concatenate([[0], ends])[boundaries[1:]]

    def document(self, number: int) -> np.ndarray:
        """Return the tokens of one document, read-only.

        Args:
            number: 0 ≤ number < `documents`.
        """
        start = self.document_ends[number - 1] if number else 0
        return self.tokens[start : self.document_ends[number]]

    def _read_header(self) -> None:
        size = self._index.stat().st_size
        with open(self._index, "rb") as file:
            head = file.read(HEADER.size)
        if head.startswith(OLD_MAGIC):
            raise UserError(
                f"{self._index}: this is fairseq's old format (TNTIDX, `--dataset-impl lazy` or `cached`); "
                "preprocess the corpus again, with gpt2dist or with Megatron's `--dataset-impl mmap`"
            )
        if not head.startswith(MAGIC):
            raise UserError(f"{self._index}: not a Megatron-core index (its first bytes are {head[:9]!r})")
        if len(head) < HEADER.size:
            raise self._damaged(f"it has {size} bytes, the header alone takes {HEADER.size}")
        _, version, code, self.sequences, self._boundaries = HEADER.unpack(head)
        if version != VERSION:
            raise UserError(f"{self._index}: version {version} of the format; only version {VERSION} is known")
        if code not in DTYPES:
            what = "floating point" if code in (6, 7) else "unknown"
            raise UserError(f"{self._index}: dtype code {code} is {what}; tokens have one of {sorted(DTYPES)}")
        self.dtype = np.dtype(DTYPES[code]).newbyteorder("<")
        expected = HEADER.size + 12 * self.sequences + 8 * self._boundaries
        if size == expected + self.sequences and self.sequences:
            raise UserError(f"{self._index}: a multimodal index (it ends in modes); only text is read")
        if size != expected or self._boundaries < 1:
            raise self._damaged(
                f"it has {size} bytes; {self.sequences} sequences and {self._boundaries} document boundaries "
                f"take {expected}"
            )
        # NeoX's merge tool reduces the boundaries to `[0]`, which Megatron-core rejects. Accept it here.
        self._one_document_per_sequence = self._boundaries == 1 and self.sequences > 0
        self.documents = self.sequences if self._one_document_per_sequence else self._boundaries - 1

    def _map(self, path: Path) -> np.ndarray:
        size, expected = path.stat().st_size, 0
        if self.sequences:
            last = self.sequences - 1
            length = int(self._array("<i4", HEADER.size + 4 * last, 1)[0])
            offset = int(self._array("<i8", HEADER.size + 4 * self.sequences + 8 * last, 1)[0])
            expected = offset + length * self.dtype.itemsize
        if size != expected:
            raise UserError(
                f"{path}: has {size} bytes, its index describes {expected}; the file is cut short or belongs to "
                "another index: copy the shard again, or preprocess the corpus again"
            )
        if size == 0:  # an empty file cannot be mapped
            return np.zeros(0, self.dtype)
        # Slicing a memmap costs a Python call; slicing a plain view of it does not.
        return np.asarray(np.memmap(path, dtype=self.dtype, mode="r"))

    def _array(self, dtype: str, offset: int, count: int) -> np.ndarray:
        """Read an int64 [count] from the index: a copy, because arrays that start at byte 34 are not aligned."""
        return np.fromfile(self._index, dtype=dtype, count=count, offset=offset).astype(np.int64)

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"{self._index}: damaged index: {what}; copy the shard again, or preprocess the corpus again"
        )


def _file(prefix: Path, kind: str) -> Path:
    return prefix.with_name(f"{prefix.name}.{kind}")
