"""Read JSON and other small files that may be damaged, foreign or incomplete.

`load` and `parse` raise a ValueError or OSError whose `reason` suits a message. `require` raises a UserError that
also names the file and a fix. The owner of a format passes the content to `build`, which checks its types.
Needs only the standard library, so it imports fast.
"""

import functools
import json
import math
import stat
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from gpt2dist.errors import UserError

MAX_BYTES = 64 << 20
"""Maximum size of a file, unless the caller allows more: far above the size of these files."""
_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_WORDS = {
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a text",
    "a valid array": "a list",
    "a valid dictionary": "an object",
}
"""Terms of pydantic → ours."""
T = TypeVar("T")


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Read a small regular file. Do not open others: a FIFO would block.

    Raises:
        OSError: The file does not exist or cannot be read.
        ValueError: It is not a regular file, or larger than `limit` bytes.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > limit:
        raise ValueError(f"{status.st_size:,} bytes, more than the {limit:,} that are allowed")
    with path.open("rb") as file:
        return file.read(limit)


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """Read a small UTF-8 file, with or without a byte order mark.

    Raises:
        OSError: As for `read_bytes`.
        ValueError: As for `read_bytes`, or the content is not UTF-8.
    """
    return _decode(read_bytes(path, limit))


def is_file(path: Path) -> bool:
    """Return whether a path is a regular file; False for impossible names and inaccessible files."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def parse(text: str | bytes, kind: type[Any] = dict, infinite: bool = False) -> Any:
    """Parse JSON strictly.

    Args:
        text: The JSON, as text or UTF-8.
        kind: The type of the outermost value.
        infinite: Whether to accept numbers that are not finite, as None. JSON has none, but Python writes them.

    Raises:
        ValueError: The text is not JSON in UTF-8, is nested too deeply, is of another type, or has a number that
            is not finite.
    """
    try:
        decoder = _LENIENT if infinite else _STRICT
        value = decoder.decode(text if isinstance(text, str) else _decode(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, kind):
        raise ValueError(f"{_NAMES[type(value)]} instead of {_NAMES[kind]}")
    return value


def load(path: Path, kind: type[Any] = dict, limit: int = MAX_BYTES, infinite: bool = False) -> Any:
    """Read a JSON file that holds an object, or a value of another `kind`; see `parse`.

    Raises:
        OSError: As for `read_bytes`.
        ValueError: As for `read_bytes` and `parse`.
    """
    return parse(read_bytes(path, limit), kind, infinite)


def require(
    path: Path, way_out: str, kind: type[Any] = dict, limit: int = MAX_BYTES, infinite: bool = False
) -> Any:
    """Read a JSON file as `load` does.

    Raises:
        UserError: The file cannot be read. The message names it, the reason and the fix.
    """
    try:
        return load(path, kind, limit, infinite)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {reason(error)}; {way_out}") from None


def read_lines(path: Path, limit: int = MAX_BYTES, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the lines of a regular file of any size without their newlines.

    Args:
        path: The file.
        limit: Maximum bytes of a line.
        begin: Where the first line starts, in bytes.
        end: Where to stop, in bytes; None for the end of the file.

    Raises:
        OSError: As for `read_bytes`.
        ValueError: The file is not a regular one, or a line is longer.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        file.seek(begin)
        left = float("inf") if end is None else end - begin
        while left > 0 and (line := file.readline(int(min(limit + 1, left)))):
            if len(line) > limit:
                raise ValueError(f"a line of more than {limit:,} bytes")
            left -= len(line)
            yield line.removesuffix(b"\n")


def require_lines(path: Path, keys: Mapping[str, type], way_out: str) -> Iterator[dict[str, Any]]:
    """Yield the objects in the lines of a .jsonl file.

    Args:
        path: The file.
        keys: Keys that each object must have, and the types of their values.
        way_out: What to do if the file cannot be read, for the message.

    Raises:
        UserError: A line cannot be read. The message names the file, the line, the reason and the fix.
    """
    number = 0
    try:
        for line in read_lines(path):
            number += 1
            content = parse(line)
            for key, kind in keys.items():
                if type(content.get(key)) is not kind:  # True is an int
                    raise ValueError(f"{key} is not {_NAMES[kind]}")
            yield content
    except (OSError, ValueError) as error:
        place = f"{path}, line {number}" if number else str(path)
        raise UserError(f"{place}: {reason(error)}; {way_out}") from None


def build(kind: type[T], content: Mapping[str, Any]) -> T:
    """Build a dataclass from JSON, and check the types of all its fields strictly. Unknown keys are ignored.

    Args:
        kind: A dataclass, whose `__post_init__` may check more and raise a ValueError.
        content: Key → value, as `parse` returns it.

    Raises:
        ValueError: A key is missing or its value is of another type; the message names the first such key.
    """
    from pydantic import ValidationError

    try:
        # JSON mode is strict about types, but still converts lists to tuples.
        return cast(T, _adapter(cast(Hashable, kind)).validate_json(json.dumps(content), strict=True))
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise ValueError(f"{key} is missing") from None
        if message.startswith("Input should be"):
            wanted = message.removeprefix("Input should be ")
            raise ValueError(f"{key} is {first['input']!r:.60}, not {_WORDS.get(wanted, wanted)}") from None
        raise ValueError(f"{key}: {message}" if key else message) from None


def reason(error: Exception) -> str:
    """Return the message of an OSError or ValueError, on one line and without the path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


def dump(value: Any) -> str:
    """Return JSON for standard output: readable text, but ASCII if it has lone surrogates, as file names can."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or _is_encodable(text) else json.dumps(value)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start:,}") from None


@functools.cache
def _adapter(kind: Hashable) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cast(Any, kind))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is not finite")
    return value


def _finite_or_none(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _int64(text: str) -> int | float:
    """Return a float for an integer beyond 64 bits: transformers writes 10³⁰ for "no limit"."""
    if len(text) > 20 or not -(1 << 63) <= (value := int(text)) < 1 << 63:
        return _finite(text)
    return value


_STRICT = json.JSONDecoder(parse_float=_finite, parse_int=cast(Any, _int64), parse_constant=_refuse_constant)
_LENIENT: json.JSONDecoder = json.JSONDecoder(
    parse_float=cast(Any, _finite_or_none), parse_int=cast(Any, _int64), parse_constant=_finite_or_none
)
