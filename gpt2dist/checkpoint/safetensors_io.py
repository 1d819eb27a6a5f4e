"""Write safetensors files in one pass with their sha256.

The safetensors library can write such files, but a checkpoint needs the sha256 of what was written, and reading a
file back to hash it would cost as much as writing it. The format is an 8-byte length, a JSON header and the bytes
of the tensors.
"""

import ctypes
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PIECE = 16 * 2**20
"""Maximum bytes per write; each piece is hashed while it is written."""
SYNC_FILE_RANGE_WRITE = 2
"""Flag of Linux's `sync_file_range`: start to write, and do not wait."""


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
