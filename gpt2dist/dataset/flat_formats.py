"""Read token files without an index, as nanoGPT and llm.c write them. They are read in place, never written.

nanoGPT: raw u16 (others write the same in wider types), with end-of-text after each document.

llm.c: 256 × int32 of header, of which magic, version and the number of tokens are used, then u16 (magic 20240520,
version 1) or u32 (20240801, version 7), with end-of-text before each document.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2dist.dataset.megatron_format import MAGIC
from gpt2dist.errors import UserError

HEADER_BYTES = 1024
LLMC: dict[tuple[int, ...], np.dtype] = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}
LLMC_EVALUATION = 20240522
BLOCK = 1 << 22
"""Tokens processed at a time."""


class FlatShard:
    """Memory-mapped reader of one token file.

    Args:
        path: The file.
        format: "nanogpt" or "llmc".
        end_of_text_id: Token id of the document separator.
        raw_dtype: The tokens' dtype in a file of nanoGPT; that of llm.c is in its header.

    Attributes:
        dtype: The tokens' dtype.
        tokens: int [tokens], read-only, straight from the page cache.
        documents: Number of documents; the first access reads the whole file.

    Raises:
        UserError: The file is missing, truncated, or not of that format.
    """

    def __init__(self, path: Path, format: str, end_of_text_id: int, raw_dtype: np.dtype):
        self.path = path
        self._format, self._end_of_text_id = format, end_of_text_id
        if not path.is_file():
            raise UserError(f"{path}: no such file; it was adopted in place: put it back, or adopt it again")
        self.dtype: np.dtype
        self.dtype, offset = (raw_dtype.newbyteorder("<"), 0) if format == "nanogpt" else _llmc_header(path)
        size = path.stat().st_size
        if (size - offset) % self.dtype.itemsize or size == offset:
            raise UserError(
                f"{path}: {size} bytes are not a whole number of {self.dtype.name} tokens; it is cut short, or "
                f"not of the format {format}"
            )
        # Slicing a memmap costs a Python call; slicing a plain view of it does not.
        self.tokens: NDArray[np.integer] = np.asarray(np.memmap(path, self.dtype, "r", offset))

    def __len__(self) -> int:
        """Return the number of tokens in the file."""
        return int(self.tokens.size)

    @property
    def documents(self) -> int:
        """The number of documents."""
        return len(self.document_ends)

    @cached_property
    def document_ends(self) -> NDArray[np.int64]:
        """int64 [documents]: the end of each document, in tokens from the start of the file."""
        found = [
            start + np.flatnonzero(self.tokens[start : start + BLOCK] == self._end_of_text_id)
            for start in range(0, len(self), BLOCK)
        ]
        marks = np.concatenate(found)
        # nanoGPT's mark is the last token of a document; llm.c's mark is the first token of the next one.
        ends = marks + 1 if self._format == "nanogpt" else marks[marks > 0]
        return ends if ends.size and ends[-1] == len(self) else np.append(ends, len(self))

    def document(self, number: int) -> NDArray[np.integer]:
        """Return the tokens of one document, read-only.

        Args:
            number: 0 ≤ number < `documents`.
        """
        start = self.document_ends[number - 1] if number else 0
        return self.tokens[start : self.document_ends[number]]


def header_of_another_format(path: Path) -> str:
    """Describe a file that wrongly has a header, and the fix; empty if it seems to have none."""
    with open(path, "rb") as file:
        head = file.read(6)
    if head.startswith(b"\x93NUMPY"):
        return "a NumPy file, which has a header; write it with `array.tofile` instead of `np.save`"
    if int.from_bytes(head[:4], "little") in {LLMC_EVALUATION, *(magic for magic, _ in LLMC)}:
        return "a file of llm.c, which has a header; adopt it with --format llmc"
    index = path.with_suffix(".idx")
    if index.is_file():
        with open(index, "rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return f"a file of Megatron, whose index is {index.name}; adopt it with --format megatron"
    return ""


def _llmc_header(path: Path) -> tuple[np.dtype, int]:
    """Return the dtype of an llm.c file and the byte offset of its tokens."""
    header = np.fromfile(path, "<i4", 3)
    kind: tuple[int, ...] = tuple(header[:2].tolist())
    if kind[:1] == (LLMC_EVALUATION,):
        raise UserError(f"{path}: an evaluation file of llm.c (magic {kind[0]}), which holds questions, not text")
    if kind not in LLMC:
        known = ", ".join(f"{magic} version {version}" for magic, version in LLMC)
        raise UserError(
            f"{path}: not a token file of llm.c (it begins with {' '.join(map(str, kind)) or 'nothing'}, not "
            f"{known}); files without a header are nanoGPT's (--format nanogpt)"
        )
    dtype = LLMC[kind]
    size, expected = path.stat().st_size, HEADER_BYTES + int(header[2]) * dtype.itemsize
    if size != expected:
        raise UserError(
            f"{path}: has {size} bytes, its header describes {expected} ({header[2]} tokens); it is cut short: "
            "download or write it again"
        )
    return dtype, HEADER_BYTES
