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

from gpt2dist.checkpoint.whole_state import Read
from gpt2dist.errors import UserError
from gpt2dist.model.huggingface import bare_name
from gpt2dist.model.tensors import MASK, StoredTensor, require_floating_point, stored_tensors

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes of `model.tensors.DTYPES`."""
SOME_ROWS = re.compile(r"(?P<name>.+)\[(?P<begin>\d{1,18}):(?P<end>\d{1,18})\]")
"""Name of an entry that has only some rows of a tensor; see `parts.TensorPiece.label`."""


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """Consecutive rows of a tensor, which lie in one file.

    Attributes:
        tensor: Their place: the file, the position of their first byte, and their shape.
        begin: First row, in the whole tensor.
        end: Row after the last one.
    """

    tensor: StoredTensor
    begin: int
    end: int


class TensorFiles:
    """Tensors of several safetensors files, read by name. It can be pickled, and read in another process.

    A file may have only some rows of a tensor, under the name `NAME[BEGIN:END]`. The whole tensor is then NAME.

    Args:
        paths: The files.

    Attributes:
        parts: Name of each tensor → its rows in each file, in order.

    Raises:
        UserError: A file is damaged, two have a tensor of the same name, rows of a tensor are missing, or a
            tensor is not floating-point.
    """

    def __init__(self, paths: Sequence[Path]):
        self.parts: dict[str, list[StoredRows]] = {}
        self._home = paths[0].parent if paths else "the checkpoint"
        self._descriptors: dict[Path, int] = {}
        for path in paths:
            for tensor in stored_tensors(path):
                if not MASK.fullmatch(bare_name(tensor.name)):  # old files have masks of bytes
                    require_floating_point(tensor)
                name, rows = _rows_of(tensor)
                self.parts.setdefault(name, []).append(rows)
        for name, parts in self.parts.items():
            parts.sort(key=lambda part: part.begin)
            _require_whole(name, parts)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            UserError: No file has a tensor of this name.
        """
        self.require([name])
        first, last = self.parts[name][0], self.parts[name][-1]
        return (last.end, *first.tensor.shape[1:]) if first.tensor.shape else ()

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
        parts = self.parts[name]
        out = torch.empty(end - begin, dtype=DTYPES[parts[0].tensor.dtype])
        row = math.prod(parts[0].tensor.shape[1:])
        for part in parts:
            first, last = max(begin, part.begin * row), min(end, part.end * row)
            if first < last:
                place = part.tensor.begin + (first - part.begin * row) * out.itemsize
                self._fill(out[first - begin : last - begin], part.tensor.file, place)
        return out

    def require(self, names: Iterable[str]) -> None:
        """Check that the files have all these tensors.

        Raises:
            UserError: One is missing; the message names it.
        """
        for name in names:
            if name not in self.parts:
                raise UserError(f"{self._home}: has no tensor {name}; was it saved by a model of another shape?")

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

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
            try:
                count = os.preadv(self._descriptors[file], [rest], place)  # at most 2 GiB in one call
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(file)) from error
            if not count:
                raise OSError(f"{file}: it ends at byte {place:,}, where its header describes more")
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
                self.fault = self.fault or str(error)
                found = torch.zeros(last - begin)
            return torch.cat([found, torch.zeros(end - last)]) if zero_rest and last < end else found

        return read


def zeros(begin: int, end: int) -> Tensor:
    """Return the elements [begin, end) of a tensor of zeros."""
    return torch.zeros(end - begin)


def _rows_of(tensor: StoredTensor) -> tuple[str, StoredRows]:
    """Return the name of the whole tensor, and which of its rows these are.

    Raises:
        UserError: There are not as many rows as the name says.
    """
    rows = tensor.shape[0] if tensor.shape else 1
    named = SOME_ROWS.fullmatch(tensor.name)
    if not named:
        return tensor.name, StoredRows(tensor, 0, rows)
    begin, end = int(named["begin"]), int(named["end"])
    if end - begin != rows:
        raise UserError(f"{tensor.file}: {tensor.name} has {rows} rows; save or copy the checkpoint again")
    return named["name"], StoredRows(tensor, begin, end)


def _require_whole(name: str, parts: Sequence[StoredRows]) -> None:
    """Check that sorted parts have each row of a tensor once, up to the last row that any has.

    Raises:
        UserError: Rows are missing or twice there, or the parts differ in shape or dtype.
    """
    several = len(parts) > 1 and any(part.tensor.name == name for part in parts)
    end = 0
    for number, part in enumerate(parts):
        tensor = part.tensor
        if part.begin < end or (several and number):
            raise UserError(f"{tensor.file}: another file also has the tensor {name}; copy the model again")
        if part.begin > end:
            raise UserError(f"{tensor.file}: no file has the rows {end} to {part.begin} of {name}; copy it again")
        first = parts[0].tensor
        if (tensor.shape[1:], tensor.dtype) != (first.shape[1:], first.dtype):
            raise UserError(f"{tensor.file}: {tensor.name} has other columns than {first.name}; copy it again")
        end = part.end
