"""The corpus: which files it has, and the documents in them, in an order that depends on nothing else."""

import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from gpt2dist.errors import UserError

JSONL_SUFFIXES = (".jsonl", ".ndjson")
DEFAULT_SUFFIXES = (".txt", ".md", ".rst", *JSONL_SUFFIXES)
"""What is taken from a directory where no suffixes are named."""

UNREADABLE_SUFFIXES = (".gz", ".zst", ".xz", ".bz2", ".zip", ".parquet", ".arrow")
REPLACEMENT = "\ufffd"
_SURROGATE = re.compile("[\ud800-\udfff]")
_UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class SourceFile:
    """A file of the corpus."""

    path: str
    """Absolute."""
    kind: str
    """"text" (the file is one document) or "jsonl" (each line is one)."""
    size: int
    """Bytes."""
    modified: int
    """Modification time, nanoseconds."""


@dataclass(frozen=True)
class Piece:
    """A part of a file that is read on its own: of jsonl, the lines that start in [start, end)."""

    path: str
    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class Document:
    """A text of the corpus."""

    text: str
    path: str
    line: int
    """1-based within the piece: see `line_in_file`."""
    size: int
    """Bytes that it takes in the file."""
    repaired: bool = False
    """Whether broken UTF-8 or lone surrogates in it were replaced by U+FFFD."""


@dataclass(frozen=True)
class Rejected:
    """A document that cannot be read."""

    path: str
    line: int
    """1-based within the piece: see `line_in_file`."""
    size: int
    """Bytes that it takes in the file."""
    reason: str


def discover(
    inputs: Sequence[str], suffixes: Sequence[str] = DEFAULT_SUFFIXES, exclude: Sequence[Path] = ()
) -> list[SourceFile]:
    """Finds the files of a corpus.

    Args:
        inputs: Files (any suffix), directories (searched recursively for `suffixes`; hidden names are skipped)
            and globs (`**` for any depth).
        suffixes: Taken from directories, with their dot; upper and lower case are the same.
        exclude: Directories that are not looked into, such as the output.

    Returns:
        The files, each once, sorted by absolute path.

    Raises:
        UserError: An input does not exist or gives no file, or a file is of a kind that is not read.
    """
    wanted = tuple(suffix.lower() for suffix in suffixes)
    barred = {_absolute(path) for path in exclude}
    paths = {_absolute(path) for name in inputs for path in _expand(name, wanted, barred)}
    return [_source(path) for path in sorted(paths, key=str)]


def cut(source: SourceFile, size: int) -> list[Piece]:
    """Cuts a file into pieces of about `size` bytes; a text file is one document and stays whole."""
    step = size if source.kind == "jsonl" else max(source.size, 1)
    return [
        Piece(source.path, source.kind, start, min(start + step, source.size))
        for start in range(0, source.size, step)
    ]


def read(piece: Piece, text_field: str = "text") -> Iterator[Document | Rejected]:
    """Reads the documents of a piece, in order; an empty text is a document too, a blank line is none.

    Args:
        piece: Where to read.
        text_field: The key of the text in a JSON line; dots lead into nested objects ("meta.text").

    Raises:
        UserError: The file cannot be read.
    """
    try:
        if piece.kind == "text":
            yield _read_text(piece)
            return
        for number, line in enumerate(_lines(piece), start=1):
            if line.strip():
                yield _read_line(piece.path, number, line, text_field)
    except OSError as error:
        raise UserError(
            f"{piece.path}: cannot be read ({error.strerror}); the job can be run again to go on"
        ) from error


def line_in_file(piece: Piece, line: int) -> int:
    """The 1-based number in its file of a line of a piece; reads the file up to the piece."""
    return line + _lines_before(piece.path, piece.start)


@lru_cache(maxsize=16)
def _lines_before(path: str, start: int) -> int:
    """Lines of a file that start before byte `start`."""
    if start == 0:
        return 0
    count, left, block = 0, start, b""
    with open(path, "rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 22))):
            count += block.count(b"\n")
            left -= len(block)
    return count + (not block.endswith(b"\n"))


def _expand(name: str, suffixes: tuple[str, ...], barred: set[Path]) -> list[Path]:
    """The files that one input names."""
    path = Path(name)
    if path.is_dir():
        found = list(_walk(_absolute(path), suffixes, barred))
        if not found:
            raise UserError(
                f"{name}: no file in this directory ends in {' '.join(suffixes)}; "
                "--suffix .xyz takes others, a glob such as 'DIR/**/*.xyz' takes all that it matches"
            )
        return found
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        raise UserError(f"{name}: no such file or directory")
    found = [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207, `name` can be absolute
    found = [match for match in found if match.is_file()]
    if not found:
        raise UserError(f"{name}: this pattern matches no file")
    return found


def _walk(directory: Path, suffixes: tuple[str, ...], barred: set[Path]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})")

    for root, folders, files in os.walk(directory, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(root, name) not in barred]
        for name in files:
            path = Path(root, name)
            if not name.startswith(".") and name.lower().endswith(suffixes) and path.is_file():
                yield path


def _absolute(path: str | Path) -> Path:
    """Without "..", but with symbolic links as they are: the name that was given says what a file is."""
    return Path(os.path.normpath(Path(path).absolute()))


def _source(path: Path) -> SourceFile:
    suffix = path.suffix.lower()
    if suffix in UNREADABLE_SUFFIXES:
        raise UserError(f"{path}: {suffix} files are not read; unpack it to text or JSON lines first")
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    kind = "jsonl" if suffix in JSONL_SUFFIXES else "text"
    return SourceFile(str(path), kind, status.st_size, status.st_mtime_ns)


def _read_text(piece: Piece) -> Document | Rejected:
    with open(piece.path, "rb") as file:
        data = file.read()
    size = len(data)
    if b"\0" in data[:8192]:  # as git tells binary files; UTF-16 and UTF-32 have zero bytes too
        reason = "binary, or text in another encoding than UTF-8 (it has zero bytes)"
        return Rejected(piece.path, 1, size, reason)
    data = data.removeprefix(_UTF8_MARK)
    try:
        return Document(data.decode("utf-8"), piece.path, 1, size)
    except UnicodeDecodeError:
        return Document(data.decode("utf-8", errors="replace"), piece.path, 1, size, repaired=True)


def _lines(piece: Piece) -> Iterator[bytes]:
    """The lines that start in the piece, the last one read to its end."""
    with open(piece.path, "rb", buffering=1 << 20) as file:
        position = piece.start
        if position:
            # The line that holds the byte before the start belongs to the piece before.
            file.seek(position - 1)
            position += len(file.readline()) - 1
        elif file.read(len(_UTF8_MARK)) == _UTF8_MARK:
            position = len(_UTF8_MARK)
        else:
            file.seek(0)
        while position < piece.end and (line := file.readline()):
            position += len(line)
            yield line


def _read_line(path: str, number: int, line: bytes, text_field: str) -> Document | Rejected:
    broken = False
    try:
        content = orjson.loads(line)
    except orjson.JSONDecodeError:
        # orjson refuses what is legal or can be mended: lone surrogates as \ud800, and broken UTF-8.
        decoded = line.decode("utf-8", errors="replace")
        broken = decoded.encode() != line
        try:
            content = json.loads(decoded)
        except (ValueError, RecursionError) as error:
            return Rejected(path, number, len(line), f"not JSON: {error}")
    text, reason = _field(content, text_field)
    if text is None:
        return Rejected(path, number, len(line), reason)
    mended = _SURROGATE.sub(REPLACEMENT, text)
    repaired = mended != text or (broken and REPLACEMENT in text)
    return Document(mended, path, number, len(line), repaired)


def _field(content: Any, name: str) -> tuple[str | None, str]:
    """The string at `name`, or None and the reason why there is none."""
    if not isinstance(content, dict):
        return None, f"not a JSON object but {type(content).__name__}"
    value: Any = content
    for key in [name] if name in content else name.split("."):
        if not isinstance(value, dict) or key not in value:
            return None, f"no field {name!r}; its fields are {', '.join(map(repr, list(content)[:10])) or 'none'}"
        value = value[key]
    if not isinstance(value, str):
        return None, f"field {name!r} is {type(value).__name__}, not a string"
    return value, ""
