"""JSON Schema of the run configuration, for editors and for the descriptions of its keys."""

from collections.abc import Mapping
from typing import Any

from gpt2dist.config.configuration import Config

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The newest draft that the YAML plugins of all common editors support."""
UNIT = "x-unit"
"""Our keyword for the unit of a number, such as "tokens". Validators ignore it."""

Node = Mapping[str, Any]

_KEYWORDS = (
    *("description", "enum", "pattern", "minLength", "minItems", "maxItems", "required"),
    *("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", UNIT, "default"),
)
"""Keywords that are taken over from pydantic's schema. Others, such as its titles, are dropped."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration file, without references.

    It accepts the values that `read` accepts. A key without a value has its default, so every key that has one
    also takes null, except in lists. Rules across several keys are not in it; `gpt2dist validate` checks them.
    """
    theirs = Config.model_json_schema()
    whole = _simplify(theirs, theirs["$defs"])
    return {"$schema": DRAFT, "title": whole.pop("description").rstrip("."), **whole}


def _simplify(theirs: Node, definitions: Node, in_list: bool = False, required: bool = False) -> dict[str, Any]:
    """Return a node of pydantic's schema with references inlined and only common keywords.

    Args:
        theirs: The node.
        definitions: All sections by name, for references.
        in_list: Whether the node is inside a list, where null does not stand for the default.
        required: Whether the node is a key without a default.
    """
    node, takes_null = _resolve(theirs, definitions)
    takes_null = takes_null or not (in_list or required)
    ours = {word: _whole(node[word]) for word in _KEYWORDS if word in node}
    if "type" in node:
        ours = {"type": [node["type"], "null"] if takes_null else node["type"], **ours}
    if "enum" in ours and takes_null:
        ours["enum"] = [*ours["enum"], None]
    if "description" in ours:  # a docstring may have several lines
        ours["description"] = " ".join(ours["description"].split())
    if properties := node.get("properties"):
        ours["additionalProperties"] = False
        mandatory = node.get("required", ())
        ours["properties"] = {
            name: _simplify(each, definitions, in_list, name in mandatory) for name, each in properties.items()
        }
        if ours.get("default"):  # repeats the defaults of the keys
            del ours["default"]
    if items := node.get("items"):
        ours["items"] = _simplify(items, definitions, in_list=True)
    elif items := node.get("prefixItems"):  # all of one type, which draft 7 has no `prefixItems` for
        ours["items"] = _simplify(items[0], definitions, in_list=True)
    return ours


def _whole(value: Any) -> Any:
    """Return a whole number as an integer: versions of pydantic differ in writing 0 or 0.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _resolve(node: Node, definitions: Node) -> tuple[Node, bool]:
    """Follow `X | None` and a reference, and return the node found and whether it takes null."""
    takes_null = "anyOf" in node
    if takes_null:
        (chosen,) = (each for each in node["anyOf"] if each.get("type") != "null")
        node = {**chosen, **node}
    if "$ref" in node:
        node = {**definitions[node["$ref"].rpartition("/")[2]], **node}
    return node, takes_null
