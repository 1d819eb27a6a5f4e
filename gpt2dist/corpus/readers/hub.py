"""Datasets by their name on the Hugging Face hub, streamed; also folders that `datasets.load_dataset` knows.

datasets:NAME[@REVISION][,config=CONFIG][,split=SPLIT]
"""

import hashlib
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from gpt2dist.corpus.documents import BadDocumentError, Items, Piece, Reading, Rejected, Source
from gpt2dist.corpus.formats import HUB_PREFIX
from gpt2dist.corpus.readers.cells import document, spread
from gpt2dist.corpus.readers.fields import find_text, no_column
from gpt2dist.corpus.readers.parquet import cut_units
from gpt2dist.corpus.storage import filesystem, reaching
from gpt2dist.errors import UserError

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubDataset:
    """What a name that begins with "datasets:" says."""

    name: str
    revision: str | None = None
    config: str | None = None
    split: str = "train"

    @classmethod
    def parse(cls, text: str) -> "HubDataset":
        """Reads such a name.

        Raises:
            UserError: It is not of the form.
        """
        name, *options = text.removeprefix(HUB_PREFIX).split(",")
        revision = None
        if "@" in name and not Path(name).is_dir():
            name, _, revision = name.partition("@")
        chosen = dict(option.partition("=")[::2] for option in options)
        if not name or not {"config", "split"} >= set(chosen) or "" in chosen.values():
            raise UserError(f"{text}: not of the form datasets:NAME[@REVISION][,config=CONFIG][,split=SPLIT]")
        if Path(name).is_dir():
            name = str(Path(name).absolute())
        return cls(name, revision, **chosen)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        config = f",config={self.config}" if self.config else ""
        return f"{HUB_PREFIX}{self.name}{revision}{config},split={self.split}"


def hub_source(text: str) -> Source:
    """The source of a name; on the hub it gets the commit that its revision is today, so that a job keeps to it.

    Raises:
        UserError: There is no such dataset, or it cannot be reached.
    """
    import datasets

    wanted = HubDataset.parse(text)
    try:
        builder = datasets.load_dataset_builder(wanted.name, wanted.config, revision=wanted.revision)
    except Exception as error:  # whatever the hub, its client and the reader of the format come up with
        raise _failure(wanted, error) from error
    files = (builder.config.data_files or {}).get(wanted.split)
    origin = list(files.origin_metadata) if files is not None else []
    version = hashlib.sha256(repr((builder.hash, builder.config.name, origin)).encode()).hexdigest()[:16]
    pinned = replace(wanted, revision=_commit(origin) or wanted.revision)
    return Source(str(pinned), "datasets", "", sum(map(_size, files or ())), version)


def cut_hub(source: Source, size: int) -> list[Piece]:
    """Cuts a dataset between its shards, the files that it lies in; where its size is not known, between all."""
    shards = _load(source.path).num_shards
    if source.size == 0:
        return [Piece(source.path, "datasets", "", shard, shard + 1, 0) for shard in range(shards)]
    return cut_units(source, size, [1] * shards)


def read_hub(piece: Piece, reading: Reading) -> Items:
    """Reads the rows of some shards; how many a shard has is not known, so its first row accounts for it all."""
    dataset = _load(piece.path)
    line, name = 0, reading.text_field
    shards = range(piece.start, piece.end)
    for shard, size in zip(shards, spread(piece.size, len(shards)), strict=True):
        for row in dataset.shard(dataset.num_shards, shard):
            line += 1
            if line == 1 and not {name, name.split(".")[0]} & set(row):
                raise no_column(piece.path, name, list(row))
            try:
                text = find_text(row, name).encode()  # Arrow's strings have no lone surrogates
                yield document(text, line, size)
            except BadDocumentError as error:
                yield Rejected(line, -1, size, str(error))
            size = 0
    return line


@lru_cache(maxsize=4)
def _load(text: str) -> Any:
    import datasets

    wanted = HubDataset.parse(text)
    options = {"split": wanted.split, "revision": wanted.revision, "streaming": True}
    try:
        return datasets.load_dataset(wanted.name, wanted.config, **options)
    except Exception as error:  # as above
        raise _failure(wanted, error) from error


def _size(file: str) -> int:
    """The bytes of a file of a dataset; 0 where nobody says."""
    system, path = filesystem(file)
    with reaching(file):
        return system.size(path) or 0


def _commit(origin: list[tuple[str, ...]]) -> str | None:
    """The commit that files on the hub are of; None for files that lie elsewhere."""
    commits = {entry[1] for entry in origin if len(entry) == 2 and _COMMIT.fullmatch(entry[1])}
    return commits.pop() if len(commits) == 1 else None


def _failure(wanted: HubDataset, error: Exception) -> UserError:
    return UserError(
        f"{wanted}: cannot be loaded ({error}); the name is that of a dataset on the Hugging Face hub, or of a "
        "directory, and config= and split= say which part of it"
    )
