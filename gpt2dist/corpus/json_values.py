"""Distinguish JSON lines from other JSON in files whose names end in .json, before they are read."""

import shlex

from gpt2dist.corpus.documents import UTF8_MARK, Piece
from gpt2dist.corpus.formats import COMPRESSIONS
from gpt2dist.corpus.storage import unreadable
from gpt2dist.corpus.text_stream import TextStream
from gpt2dist.errors import UserError

_UNPACK = {"gz": "gzip -dc", "zst": "zstd -dc", "xz": "xz -dc", "bz2": "bzip2 -dc"}


def is_one_object(path: str, compression: str, encoding: str | None = None) -> bool:
    """Return whether a .json file is an object over several lines, such as metadata; False for other names.

    Raises:
        UserError: The file is an array, not JSON lines; or it cannot be read, or not with this encoding.
    """
    if not path.lower().removesuffix(f".{compression}").endswith(".json"):
        return False
    try:
        with TextStream(Piece(path, "jsonl", compression, 0, 0, 0), encoding) as stream:
            head = stream.read().removeprefix(UTF8_MARK).lstrip()
    except OSError as error:
        raise unreadable(path, error) from error
    if head.startswith(b"["):
        raise UserError(
            f"{path}: a JSON array, but a corpus needs one document per line; convert it: "
            f"{_command(path, compression, '.[]')}; or exclude it (--suffix selects the files to read)"
        )
    return head.partition(b"\n")[0].rstrip() == b"{"


def object_over_lines(path: str, compression: str) -> str:
    """Describe a file whose JSON objects span lines, and the fix."""
    return (
        f"{path}: its JSON spans lines, but a corpus needs one document per line; convert it: "
        f"{_command(path, compression, '.')}"
    )


def _command(path: str, compression: str, program: str) -> str:
    """Return a shell command that writes the values of a JSON file one to a line."""
    stem = path.removesuffix(f".{compression}") if compression in COMPRESSIONS else path
    target = shlex.quote(stem.removesuffix(".json") + ".jsonl")
    name = shlex.quote(path)
    if compression:
        return f"{_UNPACK[compression]} {name} | jq -c '{program}' > {target}"
    return f"jq -c '{program}' {name} > {target}"
