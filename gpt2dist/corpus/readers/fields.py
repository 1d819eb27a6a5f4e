"""The text in an object of JSON or a row of a dataset, at a dotted name."""

import re
from collections.abc import Sequence
from typing import Any

from gpt2dist.corpus.documents import BadDocumentError
from gpt2dist.corpus.utf8 import REPLACEMENT
from gpt2dist.errors import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")


def find_text(content: Any, name: str) -> str:
    """The string at `name` in an object; a key that is `name` with its dots goes before a nested one.

    Raises:
        BadDocumentError: There is none.
    """
    if not isinstance(content, dict):
        raise BadDocumentError(f"not a JSON object but {type(content).__name__}")
    value: Any = content
    for key in [name] if name in content else name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise BadDocumentError(no_field(name, list(content)))
        value = value[key]
    if not isinstance(value, str):
        raise BadDocumentError(no_string(name, type(value).__name__))
    return value


def no_field(name: str, there: list[str]) -> str:
    """Why a document is bad that has other fields."""
    return f"no field {name!r}; its fields are {', '.join(map(repr, there[:10])) or 'none'}"


def no_string(name: str, kind: str) -> str:
    """Why a document is bad whose text is something else."""
    return f"field {name!r} is {kind}, not a string"


def no_column(path: str, name: str, there: Sequence[str]) -> UserError:
    """For a table that has no column with the text at all."""
    names = ", ".join(map(repr, there[:10])) or "none"
    return UserError(
        f"{path}: no column {name!r}; its columns are {names}: --text-field takes the one with the text"
    )


def mend(text: str) -> tuple[bytes, bool]:
    """The text in UTF-8, each lone surrogate replaced by U+FFFD, and whether there was one."""
    try:
        return text.encode(), False
    except UnicodeEncodeError:
        return _SURROGATE.sub(REPLACEMENT, text).encode(), True
