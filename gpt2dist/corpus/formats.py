"""The readers of all formats, and detection of a file's format and compression from its name."""

import re
from functools import cache

from gpt2dist.corpus.readers.base import Reader
from gpt2dist.errors import UserError
from gpt2dist.registry import Registry

COMPRESSIONS = ("gz", "zst", "xz", "bz2")

HUB_PREFIX = "datasets:"
"""Prefix of inputs that are datasets on the Hugging Face hub."""
DATASETS = "datasets"
"""Format of datasets of the library `datasets`, on the hub or saved. They are found by prefix or content."""

READERS: Registry[Reader] = Registry(
    "reader",
    "gpt2dist.readers",
    {
        "text": "gpt2dist.corpus.readers.text:TextReader",
        "jsonl": "gpt2dist.corpus.readers.jsonl:JsonLinesReader",
        "csv": "gpt2dist.corpus.readers.csv:CSV",
        "tsv": "gpt2dist.corpus.readers.csv:TSV",
        "parquet": "gpt2dist.corpus.readers.tables:ParquetReader",
        "arrow": "gpt2dist.corpus.readers.tables:ArrowReader",
        "warc": "gpt2dist.corpus.readers.warc:WarcReader",
        DATASETS: "gpt2dist.corpus.readers.saved_datasets:DatasetsReader",
    },
    Reader,
)
"""Readers by name, which is the value of --format. Others are named as `package.module:attribute`."""

_UNREADABLE = (
    *(".zip", ".tar", ".tgz", ".7z", ".rar", ".lz4", ".lzma", ".lz", ".z"),
    *(".pdf", ".docx", ".xlsx", ".feather", ".orc", ".avro", ".wat"),
)


def file_formats() -> tuple[str, ...]:
    """Return the names of the formats of files, ours first, then those that installed packages offer."""
    return tuple(name for name in READERS.names() if name != DATASETS)


@cache
def reader(name: str) -> Reader:
    """Return the reader of a format.

    Args:
        name: Name of the format, or `package.module:attribute` of a reader or its class.

    Raises:
        UserError: There is no such reader, or it cannot be imported.
    """
    try:
        found: Reader | type[Reader] = READERS.get(name)
    except ValueError as error:
        raise UserError(f"format {name}: {error}") from error
    return found() if isinstance(found, type) else found


def require_format(name: str | None) -> None:
    """Check the value of --format, if any.

    Raises:
        UserError: It names no reader of files.
    """
    if name == DATASETS:
        raise UserError(
            f"--format {name}: datasets need no --format; give datasets:NAME for one on the Hugging Face hub, or "
            "the directory of a saved one"
        )
    if name is not None:
        try:
            reader(name)
        except UserError as error:
            raise UserError(f"--{error}") from error


def default_suffixes(format: str | None = None) -> tuple[str, ...]:
    """Return the suffixes that a directory is searched for by default, those of `format` included.

    Raises:
        UserError: The reader of an installed package cannot be imported.
    """
    readers = [reader(name) for name in file_formats()]
    if format is not None and format not in file_formats():
        readers.append(reader(format))
    whole = [suffix for each in readers for suffix in each.suffixes]
    compressed = [
        f"{suffix}.{compression}"
        for each in readers
        if each.compressible
        for suffix in each.suffixes
        for compression in COMPRESSIONS
    ]
    return (*whole, *compressed)


def no_file_in_directory(name: str, suffixes: tuple[str, ...], named: bool) -> str:
    """Describe a directory without a matching file, for an error message; `named`: by the user's suffixes."""
    wanted = " ".join(suffixes) if named else "a known suffix"
    return (
        f"{name}: no file in this directory ends in {wanted}; "
        "name others with --suffix .xyz or a glob such as 'DIR/**/*.xyz'"
    )


def kind_of(name: str) -> str:
    """Return the kind of an ignored file, for a message: its suffix, with the one before a compression."""
    if name.startswith("."):
        return "hidden"
    found = re.search(rf"(\.\w{{1,9}})?\.({'|'.join(COMPRESSIONS)})$|\.\w{{1,9}}$", name.lower())
    return found[0] if found else "without a suffix"


def format_of(path: str, given: str | None = None) -> tuple[str, str]:
    """Return the format and the compression of a file from its name. The format defaults to text.

    Args:
        path: Path or URL of the file.
        given: Format chosen by the user, if any; the name then determines the compression only.

    Raises:
        UserError: Files of this kind cannot be read.
    """
    name = path.lower()
    format = given or _format_with_suffix(name)
    if format and name.endswith(reader(format).suffixes):  # a suffix of a reader may end in .gz
        return format, ""
    compression = next((kind for kind in COMPRESSIONS if name.endswith(f".{kind}")), "")
    stem = name.removesuffix(f".{compression}") if compression else name
    format = given or _format_with_suffix(stem)
    if format is None and (suffix := next(filter(stem.endswith, _UNREADABLE), None)):
        raise UserError(
            f"{path}: {suffix} files are not supported; unpack or convert it to text or JSON lines first"
        )
    format = format or "text"
    if compression and not reader(format).compressible:
        raise UserError(f"{path}: {format} files are not compressed as a whole; unpack the .{compression} first")
    return format, compression


def _format_with_suffix(name: str) -> str | None:
    """Return the format whose suffix a name ends in. The longest suffix wins, then the first reader."""
    found = [suffix for suffix in _by_suffix() if name.endswith(suffix)]
    return _by_suffix()[max(found, key=len)] if found else None


@cache
def _by_suffix() -> dict[str, str]:
    return {suffix: name for name in reversed(file_formats()) for suffix in reader(name).suffixes}
