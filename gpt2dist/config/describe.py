"""Describe the keys of the run configuration in words, for `gpt2dist config` and the reference page."""

import dataclasses
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from gpt2dist.config.configuration import Config
from gpt2dist.config.json_schema import UNIT, Node, json_schema
from gpt2dist.config.reading import FILE_NAME_CHARACTERS, unknown_key
from gpt2dist.errors import UserError

ITEM = "N"
"""Stands for the number of a list's item in names, as in `data.train.N.path`."""
NOT_SET = "not set"
_WIDTH = 80
_TYPES = {"boolean": "true or false", "string": "text"}
"""JSON's types → ours, where they differ."""


@dataclasses.dataclass(frozen=True)
class Key:
    """A key or section of the configuration, in words.

    Attributes:
        name: Dotted name, such as `optimizer.lr`; empty for the whole configuration.
        type: Type and unit, such as "integer (tokens)".
        limits: Limits of the value, such as "above 0"; empty if there are none.
        default: Default in YAML, "not set" or "required"; empty for a section.
        description: What the key means. Its first sentence can stand alone.
        keys: Keys inside a section, or inside each item of a list of sections.
    """

    name: str
    type: str
    limits: str
    default: str
    description: str
    keys: tuple["Key", ...] = ()

    @property
    def summary(self) -> str:
        """The first sentence of the description."""
        return self.description.split(". ")[0].rstrip(".")


def describe(name: str = "") -> Key:
    """Return the description of a key or section.

    Args:
        name: Dotted name; empty for the whole configuration. Numbers of list items may be omitted.

    Raises:
        UserError: There is no such key; the message names the closest one.
    """
    found = _key("", json_schema(), required=False)
    parts = [part for part in name.split(".") if not (part.isdecimal() or part == ITEM)] if name else []
    for depth, part in enumerate(parts):
        if not found.keys:
            if found.type == "mapping":  # it takes any keys
                return found
            raise UserError(
                f"{name}: {found.name} has no keys below it; `gpt2dist config {found.name}` explains it"
            )
        inside = next((key for key in found.keys if key.name.rpartition(".")[2] == part), None)
        if inside is None:
            problem = unknown_key(Config, tuple(parts[: depth + 1]))
            raise UserError(f"{problem.key}: {problem.message}")
        found = inside
    return found


def overview(key: Key) -> str:
    """Return the keys of a section, one line each: name, default and summary. Inner sections follow."""
    below = list(_nested(key))
    names, defaults = max(len(each.name) for each in below), max(len(each.default) for each in below)
    blocks = []
    for section in (key, *(each for each in below if each.keys)):
        lines = [f"{section.name}: {section.description}"] if section.name else []
        lines += [
            f"  {each.name:{names}}  {each.default:{defaults}}  {each.summary}"
            for each in section.keys
            if each.default  # a section without a default has only its own block
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def explanation(key: Key) -> str:
    """Return all that there is to say about one key."""
    facts = (("type", key.type), ("limits", key.limits), ("default", key.default))
    return "\n".join(
        [
            key.name,
            "",
            *textwrap.wrap(key.description, _WIDTH, initial_indent="  ", subsequent_indent="  "),
            "",
            *(f"  {what:7}  {value}" for what, value in facts if value),
        ]
    )


def _nested(key: Key) -> Iterator[Key]:
    """Yield all keys below a key, in the order of the schema."""
    for inside in key.keys:
        yield inside
        yield from _nested(inside)


def _key(name: str, node: Node, required: bool) -> Key:
    """Describe a node of the JSON Schema and all nodes below it."""
    inner, place = node, f"{name}." if name else ""
    if _type(node) == "array":
        inner, place = node["items"], f"{place}{ITEM}."
    return Key(
        name=name,
        type=_type_in_words(node),
        limits=_limits(node["items"] if _type(node) == "array" else node),
        default="required" if required else _default(node),
        description=node.get("description", ""),
        keys=tuple(
            _key(f"{place}{each}", below, each in inner.get("required", ()))
            for each, below in inner.get("properties", {}).items()
        ),
    )


def _type(node: Node) -> str:
    """Return the JSON type of a node, other than null; empty if it has any type."""
    found = node.get("type", "")
    return found if isinstance(found, str) else str(found[0])


def _type_in_words(node: Node) -> str:
    kind = _type(node)
    if "enum" in node:
        return "one of " + ", ".join(str(value) for value in node["enum"] if value is not None)
    if kind == "object":
        return "section" if "properties" in node else "mapping"
    if kind == "array":
        count = f"{node['minItems']} " if "minItems" in node else ""
        if "enum" in node["items"]:
            return f"list of {', '.join(node['items']['enum'])}"
        return f"list of {count}{_type_in_words(node['items'])}s"
    unit = f" ({node[UNIT]})" if UNIT in node else ""
    return f"{_TYPES.get(kind, kind) or 'anything'}{unit}"


def _limits(node: Node) -> str:
    if "pattern" in node:
        return f"only {FILE_NAME_CHARACTERS}"
    if "minLength" in node:
        return "not empty"
    least, most = node.get("minimum"), node.get("maximum")
    if _type(node) == "integer" and "exclusiveMinimum" in node:
        least = node["exclusiveMinimum"] + 1
    if least is not None and most is not None:
        return f"from {least:,} to {most:,}"
    found = {
        "at least": least,
        "above": node.get("exclusiveMinimum") if least is None else None,
        "at most": most,
        "below": node.get("exclusiveMaximum"),
    }
    return ", ".join(f"{word} {limit:,}" for word, limit in found.items() if limit is not None)


def _default(node: Node) -> str:
    if "default" not in node:
        return ""
    value: Any = node["default"]
    if value is None:
        return NOT_SET
    if isinstance(value, str) and value:
        return value
    return json.dumps(value).replace("e-0", "e-")
