"""Read tensors of several safetensors files by name, whole or only some of their elements.

Opening reads the headers only. A rank then reads no other bytes than those that it asks for, with plain reads: if
the disk fails, they raise an error, while memory-mapped files would end the process.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2dist import json_files
from gpt2dist.checkpoint.whole_state import Read
from gpt2dist.errors import UserError
from gpt2dist.model.huggingface import bare_name
from gpt2dist.model.tensors import MASK, StoredTensor, require_floating_point, stored_tensors

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes of `model.tensors.DTYPES`."""
ROWS = re.compile(r"(.+)\[(\d+):(\d+)\]")
"""Name of a part of a tensor: `NAME[BEGIN:END]` has these rows of NAME."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """Consecutive elements of a tensor, in one file.

    Attributes:
        begin: Number of the first one in the flattened tensor.
        end: End, exclusive.
        stored: Where they are.
    """

    begin: int
    end: int
    stored: StoredTensor


class TensorFiles:
    """Tensors of several safetensors files, read by name. It can be pickled, and read in another process.

    Args:
        paths: The files.

    Raises:
        UserError: A file is damaged, two have a tensor of the same name, a tensor is not floating-point, or rows
            of a tensor are missing.
    """

    def __init__(self, paths: Sequence[Path]):
        self._home = paths[0].parent if paths else "the checkpoint"
        self._descriptors: dict[Path, int] = {}
        pieces: dict[str, list[tuple[int, StoredTensor]]] = {}
        for path in paths:
            for stored in stored_tensors(path):
                if not MASK.fullmatch(bare_name(stored.name)):  # old files have masks of bytes
                    require_floating_point(stored)
                rows = ROWS.fullmatch(stored.name)
                pieces.setdefault(rows[1] if rows else stored.name, []).append(
                    (int(rows[2]) if rows else 0, stored)
                )
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, list[_Part]] = {}
        for name, found in pieces.items():
            self._shapes[name], self._parts[name] = _join(name, sorted(found, key=lambda each: each[0]))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            UserError: No file has a tensor of this name.
        """
        self.require([name])
        return self._shapes[name]

    def read(self, name: str) -> Tensor:
        """Return the tensor with this name, in the dtype in which it is stored.

        Raises:
            UserError: No file has a tensor of this name.
            OSError: A file cannot be read, or is shorter than its header says.
        """
        shape = self.shape(name)
        return self.read_range(name, 0, math.prod(shape)).view(shape)

    def read_range(self, name: str, begin: int, end: int) -> Tensor:
        """Return the elements [begin, end) of the flattened tensor with this name, in the dtype of the file.

        Raises:
            UserError: No file has a tensor of this name.
            OSError: A file cannot be read, or is shorter than its header says.
        """
        self.require([name])
        parts = self._parts[name]
        out = torch.empty(max(0, end - begin), dtype=DTYPES[parts[0].stored.dtype])
        for part in parts:
            first, last = max(begin, part.begin), min(end, part.end)
            if first < last:
                place = part.stored.begin + (first - part.begin) * out.itemsize
                self._fill(out[first - begin : last - begin], part.stored.file, place)
        return out

    def require(self, names: Iterable[str]) -> None:
        """Check that the files have all these tensors.

        Raises:
            UserError: One is missing; the message names it.
        """
        for name in names:
            if name not in self._parts:
                raise UserError(f"{self._home}: has no tensor {name}; was it saved by a model of another shape?")

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptors": {}}

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()

    def _fill(self, out: Tensor, file: Path, place: int) -> None:
        """Read the bytes of a tensor from a place in a file."""
        if file not in self._descriptors:
            self._descriptors[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        rest = out.view(torch.uint8).numpy().data
        while rest:
            count = os.preadv(self._descriptors[file], [rest], place)  # at most 2 GiB in one call
            if not count:
                raise OSError(f"it ends at byte {place:,}, where its header describes more")
            rest, place = rest[count:], place + count


class RangeReaders:
    """Readers of parts of tensors, for `WholeState.restore`.

    They raise no error, since other ranks may wait for this one in the next collective. Check `fault` at the end.

    Attributes:
        fault: The first error; empty if there was none.
    """

    def __init__(self) -> None:
        self.fault = ""

    def reader(self, files: TensorFiles, name: str, elements: int, zero_rest: bool = False) -> Read:
        """Return a function that reads a range of a tensor as fp32.

        Args:
            files: The files.
            name: Name of the tensor.
            elements: Number of its elements to use, the first ones.
            zero_rest: Whether the elements after these are zero; otherwise they are not returned.
        """

        def read(begin: int, end: int) -> Tensor:
            last = max(begin, min(end, elements))
            try:
                found = files.read_range(name, begin, last).float()
            except OSError as error:
                self.fault = self.fault or json_files.reason(error)
                found = torch.zeros(last - begin)
            return torch.cat([found, torch.zeros(end - last)]) if zero_rest and last < end else found

        return read


def zeros(begin: int, end: int) -> Tensor:
    """Return the elements [begin, end) of a tensor of zeros."""
    return torch.zeros(end - begin)


def _join(name: str, pieces: list[tuple[int, StoredTensor]]) -> tuple[tuple[int, ...], list[_Part]]:
    """Return the whole shape of a tensor and its parts, given the first row of each piece, in ascending order."""
    first = pieces[0][1]
    if first.name == name:  # not cut
        if len(pieces) > 1:
            raise UserError(f"{pieces[1][1].file}: another file also has the tensor {name}; copy the model again")
        return first.shape, [_Part(0, math.prod(first.shape), first)]
    row = math.prod(first.shape[1:])
    rows, parts = 0, []
    for begin, stored in pieces:
        match = ROWS.fullmatch(stored.name)
        if not match or begin != rows or (int(match[3]) - begin, *first.shape[1:]) != stored.shape:
            raise UserError(f"{stored.file}: {stored.name} does not continue row {rows} of {name}; copy it again")
        if stored.dtype != first.dtype:
            raise UserError(f"{stored.file}: {stored.name} is {stored.dtype}, not {first.dtype}; copy it again")
        rows = int(match[3])
        parts.append(_Part(begin * row, rows * row, stored))
    return (rows, *first.shape[1:]), parts
