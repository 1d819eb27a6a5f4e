"""Reader of datasets of the library `datasets`: directories that `save_to_disk` wrote, and those on the hub."""

from pathlib import Path
from typing import Any

from gpt2dist import json_files
from gpt2dist.corpus.documents import Items, Piece, Reading, Source
from gpt2dist.corpus.formats import HUB_PREFIX
from gpt2dist.corpus.readers.base import Reader
from gpt2dist.corpus.readers.cells import spread
from gpt2dist.errors import UserError


class DatasetsReader(Reader):
    """Reader of saved datasets and of datasets on the hub, which are found by content and prefix."""

    def cut(self, source: Source, size: int, encoding: str | None) -> list[Piece]:
        """Cut a saved dataset between rows, one on the hub between shards."""
        if not source.path.startswith(HUB_PREFIX):
            return cut_saved(source, size)
        from gpt2dist.corpus.readers.hub import cut_hub

        return cut_hub(source, size)

    def read(self, piece: Piece, reading: Reading) -> Items:
        """Read some rows of a saved dataset, or some shards of one on the hub."""
        if not piece.path.startswith(HUB_PREFIX):
            return read_saved(piece, reading)
        from gpt2dist.corpus.readers.hub import read_hub

        return read_hub(piece, reading)


def is_saved(directory: Path) -> bool:
    """Return whether a directory is a saved dataset, or contains one for each of several splits."""
    if (directory / "dataset_dict.json").is_file():
        return True
    return (directory / "state.json").is_file() and (directory / "dataset_info.json").is_file()


def saved_source(directory: Path) -> Source:
    """Return the source of a saved dataset; if it has several splits, use "train".

    Raises:
        UserError: The dataset cannot be read, or has splits but no "train".
    """
    try:
        if (directory / "dataset_dict.json").is_file():
            splits = json_files.load(directory / "dataset_dict.json")["splits"]
            if "train" not in splits:
                one = directory / (splits[0] if splits else "SPLIT")
                raise UserError(
                    f"{directory}: has no split 'train' but {', '.join(splits)}; name one, such as {one}"
                )
            directory = directory / "train"
        state = json_files.load(directory / "state.json")
        size = sum((directory / file["filename"]).stat().st_size for file in state["_data_files"])
        return Source(str(directory), "datasets", "", size, str(state["_fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(str(directory), error) from None


def cut_saved(source: Source, size: int) -> list[Piece]:
    """Cut a dataset between rows.

    Raises:
        UserError: A file is damaged, or has lost its end, which the library `datasets` does not notice.
    """
    from gpt2dist.corpus.readers.parquet import check_stream

    dataset = _load(source.path)
    for file in dataset.cache_files:
        check_stream(file["filename"])
    rows = len(dataset)
    count = max(1, min(rows, source.size // max(size, 1)))
    starts = [rows * number // count for number in range(count + 1)]
    return [
        Piece(source.path, source.format, "", starts[number], starts[number + 1], share)
        for number, share in enumerate(spread(source.size, count))
    ]


def read_saved(piece: Piece, reading: Reading) -> Items:
    """Read some rows, in the order of the dataset."""
    from gpt2dist.corpus.readers.parquet import TextColumn, rows_at_once

    dataset = _load(piece.path)
    column = TextColumn(dataset.features.arrow_schema, reading.text_field, piece.path)
    table = dataset.select_columns([column.name]).with_format("arrow")
    rows = piece.end - piece.start
    sizes, step = spread(piece.size, rows), rows_at_once(piece.size, rows)
    try:
        for start in range(piece.start, piece.end, step):
            for chunk in table[start : min(start + step, piece.end)].column(column.name).chunks:
                yield from column.rows(chunk, start - piece.start, sizes)
                start += len(chunk)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise _damaged(piece.path, error) from None
    return rows


def _load(path: str) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(path)
    except Exception as error:  # damaged files raise many types
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(f"{path}: damaged, or not a saved dataset ({error!r}); save it again")
