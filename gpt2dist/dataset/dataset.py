"""The shards of a dataset in any format. Adopted shards are outside the dataset directory."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2dist.dataset.flat_formats import HEADER_BYTES, FlatShard
from gpt2dist.dataset.manifest import Manifest, ShardRecord
from gpt2dist.dataset.megatron_format import Shard
from gpt2dist.errors import UserError


class ShardReader(Protocol):
    """Common interface of all shard readers; see `Shard`."""

    dtype: np.dtype
    tokens: NDArray[np.integer]

    def __len__(self) -> int: ...

    @property
    def documents(self) -> int: ...  # noqa: D102

    @property
    def document_ends(self) -> NDArray[np.int64]: ...  # noqa: D102

    def document(self, number: int) -> NDArray[np.integer]: ...  # noqa: D102


def open_shard(manifest: Manifest, record: ShardRecord) -> ShardReader:
    """Open a shard of a dataset.

    Raises:
        UserError: A file is missing, of another format, or damaged.
    """
    if record.format == "megatron":
        return Shard(shard_path(manifest, record))
    path, dtype = shard_path(manifest, record), np.dtype(manifest.dtype)
    return FlatShard(path, record.format, manifest.end_of_text_id, dtype)


def require_counts(shard: ShardReader, manifest: Manifest, record: ShardRecord) -> None:
    """Check that an opened shard has as many tokens and documents as its record says.

    Raises:
        UserError: The numbers differ.
    """
    if (len(shard), shard.documents) != (record.tokens, record.documents):
        raise UserError(
            f"{token_file(manifest, record)[0]}: holds {len(shard):,} tokens in {shard.documents:,} documents, "
            f"the manifest says {record.tokens:,} in {record.documents:,}; copy the dataset again, or preprocess "
            "the corpus again"
        )


def shard_path(manifest: Manifest, record: ShardRecord) -> Path:
    """Return the path of a shard: without `.bin` and `.idx` for Megatron's format, else that of the file."""
    return Path(record.path) if record.path else Path(manifest.directory) / record.name


def token_file(manifest: Manifest, record: ShardRecord) -> tuple[Path, int]:
    """Return the file with a shard's tokens, and its expected size in bytes."""
    path = shard_path(manifest, record)
    size = record.tokens * np.dtype(manifest.dtype).itemsize
    if record.format == "megatron":
        return path.with_name(f"{path.name}.bin"), size
    return path, size + (HEADER_BYTES if record.format == "llmc" else 0)


def index_file(manifest: Manifest, record: ShardRecord) -> Path | None:
    """Return the file with a shard's index, or None if the format has no index."""
    path = shard_path(manifest, record)
    return path.with_name(f"{path.name}.idx") if record.format == "megatron" else None
