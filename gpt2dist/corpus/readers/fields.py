"""Lookup of the text in a JSON object or a dataset row by a dotted name."""

import re
from collections.abc import Sequence
from typing import Any

from gpt2dist.corpus.documents import BadDocumentError
from gpt2dist.corpus.utf8 import REPLACEMENT
from gpt2dist.errors import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")


def find_text(content: Any, name: str) -> str:
    """Return the string at `name` in an object. A key equal to the whole dotted name wins over nested keys.

    Raises:
        BadDocumentError: The content is not an object, or the field is missing or not a string.
    """
    if not isinstance(content, dict):
        raise BadDocumentError(no_object(type(content).__name__))
    value: Any = content
    for key in [name] if name in content else name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise BadDocumentError(no_field(name, list(content)))
        value = value[key]
    if not isinstance(value, str):
        raise BadDocumentError(no_string(name, type(value).__name__))
    return value


def no_object(kind: str) -> str:
    """Describe a line that is JSON but not an object."""
    hint = " (`jq -c '.[]' FILE` makes a line of each element of an array)" if kind == "list" else ""
    return f"not a JSON object but {kind}{hint}"


def no_field(name: str, there: list[str]) -> str:
    """Describe a missing field of a document, and list the fields that exist."""
    return f"no field {name!r}; its fields are {', '.join(map(repr, there[:10])) or 'none'}"


def no_string(name: str, kind: str) -> str:
    """Describe a text field that is not a string."""
    return f"field {name!r} is {kind}, not a string"


def no_column(path: str, name: str, there: Sequence[str]) -> UserError:
    """Build the error for a table without the text column."""
    names = ", ".join(map(repr, there[:10])) or "none"
    return UserError(
        f"{path}: no column {name!r}; its columns are {names}; name the text column with --text-field"
    )


def require_one(path: str, name: str, there: Sequence[str]) -> None:
    """Check that a table has a column once.

    Raises:
        UserError: Several columns have that name.
    """
    if (count := list(there).count(name)) > 1:
        raise UserError(
            f"{path}: {count} columns are named {name!r}, so the text column is ambiguous; rename or remove "
            "all but one"
        )


def mend(text: str) -> tuple[bytes, int]:
    """Encode a text as UTF-8, with lone surrogates replaced by U+FFFD. Return it, and the number of them."""
    try:
        return text.encode(), 0
    except UnicodeEncodeError:
        text, count = _SURROGATE.subn(REPLACEMENT, text)
        return text.encode(), count
