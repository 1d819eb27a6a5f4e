"""Differences between the text of a dataset's tokens and its source, as recorded in manifests and results.

The record is an object with some of these keys. It is empty if the tokens restore every byte:

    normalizer       names of the tokenizer's normalizers, which change the text, such as "NFC"
    lossy            why the tokenizer may lose some of the text
    documents        number of documents whose tokens do not restore their text; in a dataset, over all splits and
                     with duplicates
    unknown_tokens   number of tokens that represent text outside the vocabulary
    bytes_of         "tokens" if bytes and words were counted in the decoded tokens, because the source is not
                     known; otherwise they were counted in the source
"""

from typing import Any

_TYPES = {"normalizer": str, "lossy": str, "documents": int, "unknown_tokens": int, "bytes_of": str}


def check(changes: Any) -> None:
    """Check the types of a record.

    Raises:
        TypeError: The record is not an object, or a value has the wrong type or is negative.
    """
    if not isinstance(changes, dict) or not (changes.keys() & {"normalizer", "lossy"} or not changes):
        raise TypeError("text_changes names neither a normalizer nor a loss")
    for key, kind in _TYPES.items():
        if key in changes and (type(changes[key]) is not kind or (kind is int and changes[key] < 0)):
            raise TypeError(f"text_changes: {key} is {changes[key]!r:.60}")


def described(changes: dict[str, Any]) -> str:
    """Describe the changes in words; empty if there are none."""
    if not changes:
        return ""
    if "lossy" in changes:
        parts = [f"lossy tokenizer ({changes['lossy']})"]
    else:
        parts = [f"the tokenizer normalizes text ({changes['normalizer']})"]
    if "documents" in changes:
        parts.append(f"documents whose tokens do not restore every byte: {changes['documents']:,}")
    if "unknown_tokens" in changes:
        parts.append(f"tokens that represent unknown text: {changes['unknown_tokens']:,}")
    if changes.get("bytes_of") == "tokens":
        parts.append("bytes and words were counted in the decoded tokens, because the source is not known")
    return "; ".join(parts)
