"""The shards of a dataset, whatever their format: our own lie in its directory, adopted ones where they were."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2dist.dataset.flat_formats import HEADER_BYTES, FlatShard
from gpt2dist.dataset.manifest import Manifest, ShardRecord
from gpt2dist.dataset.megatron_format import Shard


class ShardReader(Protocol):
    """What all shards can do; see `Shard`."""

    dtype: np.dtype
    tokens: NDArray[np.integer]

    def __len__(self) -> int: ...

    @property
    def documents(self) -> int: ...  # noqa: D102

    @property
    def document_ends(self) -> NDArray[np.int64]: ...  # noqa: D102

    def document(self, number: int) -> NDArray[np.integer]: ...  # noqa: D102


def open_shard(manifest: Manifest, record: ShardRecord) -> ShardReader:
    """Opens a shard of a dataset.

    Raises:
        UserError: A file is missing, of another format, or damaged.
    """
    if record.format == "megatron":
        return Shard(shard_path(manifest, record))
    return FlatShard(shard_path(manifest, record), record.format, manifest.end_of_text_id)


def shard_path(manifest: Manifest, record: ShardRecord) -> Path:
    """Where a shard lies: of Megatron's format without `.bin` and `.idx`, else the file itself."""
    return Path(record.path) if record.path else Path(manifest.directory) / record.name


def token_file(manifest: Manifest, record: ShardRecord) -> tuple[Path, int]:
    """The file with a shard's tokens, and the bytes that it must have."""
    path = shard_path(manifest, record)
    size = record.tokens * np.dtype(manifest.dtype).itemsize
    if record.format == "megatron":
        return path.with_name(f"{path.name}.bin"), size
    return path, size + (HEADER_BYTES if record.format == "llmc" else 0)


def index_file(manifest: Manifest, record: ShardRecord) -> Path | None:
    """The file with a shard's index; None where its format has none."""
    path = shard_path(manifest, record)
    return path.with_name(f"{path.name}.idx") if record.format == "megatron" else None
