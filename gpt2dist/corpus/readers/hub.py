"""Reader of datasets on the Hugging Face hub, which are streamed, and of directories for `datasets.load_dataset`.

datasets:NAME[@REVISION][,config=CONFIG][,split=SPLIT]
"""

import hashlib
import re
from collections.abc import Iterator
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
    """Parsed form of a "datasets:…" input."""

    name: str
    revision: str | None = None
    config: str | None = None
    split: str = "train"

    @classmethod
    def parse(cls, text: str) -> "HubDataset":
        """Parse an input.

        Raises:
            UserError: The input does not have the documented form.
        """
        name, *options = text.removeprefix(HUB_PREFIX).split(",")
        revision = None
        if "@" in name and not Path(name).is_dir():
            name, _, revision = name.partition("@")
        chosen = dict(option.partition("=")[::2] for option in options)
        if not name or not {"config", "split"} >= set(chosen) or "" in chosen.values():
            raise UserError(f"{text}: not of the form datasets:NAME[@REVISION][,config=CONFIG][,split=SPLIT]")
        if len(chosen) < len(options):
            raise UserError(
                f"{text}: an option is given twice; to read two splits or configurations, give two inputs"
            )
        if Path(name).is_dir():
            name = str(Path(name).absolute())
        return cls(name, revision, **chosen)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        config = f",config={self.config}" if self.config else ""
        return f"{HUB_PREFIX}{self.name}{revision}{config},split={self.split}"


def hub_source(text: str) -> Source:
    """Return the source of an input, pinned to the revision's current commit so that a job sees no later change.

    Raises:
        UserError: The input is malformed, or the dataset does not exist or cannot be reached.
    """
    import datasets

    wanted = HubDataset.parse(text)
    try:
        builder = datasets.load_dataset_builder(wanted.name, wanted.config, revision=wanted.revision)
    except Exception as error:  # the hub, its client and the format's reader raise many types
        raise _failure(wanted, error) from error
    files = (builder.config.data_files or {}).get(wanted.split)
    origin = list(files.origin_metadata) if files is not None else []
    version = hashlib.sha256(repr((builder.hash, builder.config.name, origin)).encode()).hexdigest()[:16]
    pinned = replace(wanted, revision=_commit(origin) or wanted.revision)
    return Source(str(pinned), "datasets", "", sum(map(_size, files or ())), version)


def cut_hub(source: Source, size: int) -> list[Piece]:
    """Cut a dataset between its shards (files). If its size is unknown, each shard becomes a piece."""
    shards = _load(source.path).num_shards
    if source.size == 0:
        return [Piece(source.path, "datasets", "", shard, shard + 1, 0) for shard in range(shards)]
    return cut_units(source, size, [1] * shards)


def read_hub(piece: Piece, reading: Reading) -> Items:
    """Read the rows of some shards. Row counts are unknown, so a shard's first row accounts for all its bytes."""
    dataset = _load(piece.path)
    line, owed, name = 0, 0, reading.text_field
    shards = range(piece.start, piece.end)
    for shard, size in zip(shards, spread(piece.size, len(shards)), strict=True):
        owed += size  # of this shard, and of earlier shards without rows
        for row in _rows(dataset.shard(dataset.num_shards, shard), piece.path):
            line += 1
            if line == 1 and not {name, name.split(".")[0]} & set(row):
                raise no_column(piece.path, name, list(row))
            try:
                text = find_text(row, name).encode()  # Arrow strings have no lone surrogates
                yield document(text, line, owed)
            except BadDocumentError as error:
                yield Rejected(line, -1, owed, str(error))
            owed = 0
    return line


def _rows(dataset: Any, path: str) -> Iterator[dict[str, Any]]:
    rows = iter(dataset)
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # see `hub_source`
            raise UserError(
                f"{path}: cannot be read further ({error}); run the job again to resume it. If that does not "
                "help, a file is damaged: get it again, or exclude it"
            ) from error
        if row is None:
            return
        yield row


@lru_cache(maxsize=4)
def _load(text: str) -> Any:
    import datasets

    wanted = HubDataset.parse(text)
    options = {"split": wanted.split, "revision": wanted.revision, "streaming": True}
    try:
        return datasets.load_dataset(wanted.name, wanted.config, **options)
    except Exception as error:  # see `hub_source`
        raise _failure(wanted, error) from error


def _size(file: str) -> int:
    """Return the bytes of a dataset's file; 0 if unknown."""
    system, path = filesystem(file)
    with reaching(file):
        return system.size(path) or 0


def _commit(origin: list[tuple[str, ...]]) -> str | None:
    """Return the commit of files on the hub; None for files elsewhere."""
    commits = {entry[1] for entry in origin if len(entry) == 2 and _COMMIT.fullmatch(entry[1])}
    return commits.pop() if len(commits) == 1 else None


def _failure(wanted: HubDataset, error: Exception) -> UserError:
    return UserError(
        f"{wanted}: cannot be loaded ({error}); check the name of the dataset on the Hugging Face hub or of the "
        "directory, and config= and split="
    )
