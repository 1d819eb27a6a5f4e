"""Write safetensors files in one pass with their sha256, and read them one tensor at a time.

The safetensors library can write such files, but a checkpoint needs the sha256 of what was written, and reading a
file back to hash it would cost as much as writing it. The format is an 8-byte length, a JSON header and the bytes
of the tensors. Reading uses the library.
"""

import ctypes
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from gpt2dist.errors import UserError
from gpt2dist.model.huggingface import bare_name
from gpt2dist.model.tensors import MASK, StoredTensor, require_floating_point, stored_tensors

PIECE = 16 * 2**20
"""Maximum bytes per write; each piece is hashed while it is written."""
SYNC_FILE_RANGE_WRITE = 2
"""Flag of Linux's `sync_file_range`: start to write, and do not wait."""
SOME_ROWS = re.compile(r"(?P<name>.+)\[(?P<begin>\d{1,18}):(?P<end>\d{1,18})\]")
"""Name of an entry that has only some rows of a tensor; see `parts.TensorPiece.label`."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write fp32 tensors to a file and flush it to disk.

    Args:
        path: The file.
        tensors: Contiguous fp32 tensors on the CPU, by name.

    Returns:
        The file's record for the manifest: its `bytes` and `sha256`.

    Raises:
        OSError: The disk is full or fails.
        ValueError: A tensor is not fp32 or not contiguous.
    """
    digest = hashlib.sha256()
    size = 0
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as hasher:
        hashed: Future[None] | None = None
        for piece in _pieces(tensors):
            before, hashed = hashed, hasher.submit(digest.update, piece)
            rest = piece
            while rest:  # an unbuffered write may be partial
                rest = rest[file.write(rest) :]
            _start_writing_back(file.fileno(), size, len(piece))
            size += len(piece)
            if before:
                before.result()
        if hashed:
            hashed.result()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _start_writing_back(descriptor: int, begin: int, size: int) -> None:
    """Have the disk write bytes of a file while the next ones are hashed. A hint: errors do not matter.

    Without it, Linux writes nothing before `fsync` as long as a tenth of the memory is free of unwritten pages.
    """
    if start := getattr(ctypes.CDLL(None), "sync_file_range", None):  # Linux only
        start(descriptor, ctypes.c_int64(begin), ctypes.c_int64(size), SYNC_FILE_RANGE_WRITE)


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """Yield the bytes of a safetensors file, header first."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise ValueError(f"{name} is not a contiguous fp32 tensor")
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the data to 8 bytes
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        content = tensor.view(-1).numpy().view("u1").data
        for begin in range(0, len(content), PIECE):
            yield content[begin : begin + PIECE]


@dataclass(frozen=True)
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
    """Tensors of several safetensors files, read by name one at a time.

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
        self._opened: dict[Path, Any] = {}
        for path in paths:
            tensors = list(stored_tensors(path))
            self._opened[path] = safe_open(path, framework="pt")
            for tensor in tensors:
                if not MASK.fullmatch(bare_name(tensor.name)):  # old files have masks of bytes
                    require_floating_point(tensor)
                name, rows = _rows_of(tensor)
                self.parts.setdefault(name, []).append(rows)
        for name, parts in self.parts.items():
            parts.sort(key=lambda part: part.begin)
            _require_whole(name, parts)

    def read(self, name: str) -> Tensor:
        """Return the tensor with this name.

        Raises:
            UserError: No file has a tensor of this name.
        """
        self.require([name])
        tensors = [self._opened[part.tensor.file].get_tensor(part.tensor.name) for part in self.parts[name]]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def require(self, names: Iterable[str]) -> None:
        """Check that the files have all these tensors.

        Raises:
            UserError: One is missing; the message names it.
        """
        for name in names:
            if name not in self.parts:
                raise UserError(f"{self._home}: has no tensor {name}; was it saved by a model of another shape?")

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)


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
