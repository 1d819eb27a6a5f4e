"""Read settings from YAML and `section.key=value` into a schema, and report all mistakes together.

`parse_settings` does not stop at the first mistake. It replaces a wrong value with the default and records a
`Problem`, so that `preflight` can still check rules across the valid keys.
"""

import dataclasses
import difflib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gpt2dist.config.yaml import LONGEST, TOO_LONG, parse
from gpt2dist.errors import UserError

Schema = TypeVar("Schema", bound=BaseModel)

FILE_NAME_CHARACTERS = "letters, digits, '.', '_' and '-'"
"""The pattern of names that become part of file names, in words."""

_MISSING, _UNKNOWN = "missing", "unknown key"
"""Start of the message about a key that is not set, and about one that does not exist."""
_WORDS = {
    "Input ": "",
    "a valid array": "a list",
    "a valid integer": "an integer",
    "a valid boolean": "true or false",
    "an object": "a mapping",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
    "valid ": "",
}
"""Words in pydantic's messages, in the order in which they are replaced → ours."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One mistake in a configuration.

    Attributes:
        key: Dotted key, such as `optimizer.lr`.
        message: What is wrong, and how to fix it.
        also: Other keys involved. A problem that spans keys is not reported if one of them is wrong by itself,
            because it would follow from the default that replaced the wrong value.
    """

    key: str
    message: str
    also: tuple[str, ...] = ()

    def may_be_meant_by(self, other: "Problem") -> bool:
        """Return whether a key is perhaps missing only because of another mistake.

        That is so if the other one is in a key that would have set it, or is an unknown key beside it, as in
        `data: {length: 1024}` without `data.sequence_length`.
        """
        if not self.message.startswith(_MISSING):
            return False
        section = self.key.rpartition(".")[0]
        if other.message.startswith(_UNKNOWN) and other.key.rpartition(".")[0] == section:
            return True
        return any(f"{other.key}.".startswith(f"{key}.") for key in self.also if key != self.key)

    def follows_from(self, other: "Problem") -> bool:
        """Return whether the two problems share a key, or a key of one is inside a key of the other."""
        mine, theirs = ([f"{key}." for key in (p.key, *p.also)] for p in (self, other))
        return any(m.startswith(t) or t.startswith(m) for m in mine for t in theirs)


def flatten(tree: dict[str, Any], lists: bool = False) -> dict[str, Any]:
    """Turn nested settings into one level with dotted keys, such as `zero.stage`.

    Args:
        tree: Nested dictionaries.
        lists: Whether lists are taken apart as well: `optimizer.betas.0`.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if lists and isinstance(value, list):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, dict) and (value or lists):
            flat |= {f"{key}.{name}": item for name, item in flatten(value, lists).items()}
        else:
            flat[key] = value
    return flat


def parse_settings(
    schema: type[Schema], raw: dict[str, Any], overrides: Sequence[str] = ()
) -> tuple[Schema, list[Problem]]:
    """Validate nested settings, after applying overrides to them.

    Args:
        schema: The model whose fields are the known keys.
        raw: Nested dictionaries of JSON values; changed in place.
        overrides: Overrides `section.key=value`, where value is YAML; `data.train.0.path=…` reaches into a list.

    Returns:
        The settings, with defaults in place of wrong values, and all problems found.
    """
    problems: list[Problem] = []
    for word in overrides:
        problems += _override(raw, word)
    settings, more = _validate(schema, raw)
    return settings, problems + more


def section_problems(schema: type[BaseModel], raw: dict[str, Any], place: str) -> list[Problem]:
    """Return all problems of values whose schema comes from elsewhere, such as `optimizer.options`.

    Args:
        schema: Schema of the values.
        raw: The values.
        place: Dotted key under which they stand.
    """
    try:
        schema.model_validate_json(json.dumps(raw))
    except ValidationError as invalid:
        return [_explain(schema, error, f"{place}.") for error in invalid.errors(include_url=False)]
    return []


def raise_problems(problems: Iterable[Problem], where: str) -> None:
    """Raise one UserError that lists every problem with its key, or do nothing if there are no problems."""
    found = list(dict.fromkeys(problems))
    listed = [problem for problem in found if not any(problem.may_be_meant_by(other) for other in found)]
    if listed:
        count = "1 mistake" if len(listed) == 1 else f"{len(listed)} mistakes"
        lines = "".join(f"\n  {problem.key}: {problem.message}" for problem in listed)
        raise UserError(f"{where}: {count} in the configuration{lines}")


def read_yaml(path: Path, schema: type[BaseModel]) -> dict[str, Any]:
    """Read a YAML file of sections, without validating them.

    Args:
        path: The file.
        schema: The model whose fields are the known sections.

    Raises:
        UserError: The file cannot be read, is not valid YAML, or is not a mapping.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise ValueError(TOO_LONG)
        raw = parse(content.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the path of a YAML run file") from error
    except UnicodeDecodeError as error:  # a ValueError, too
        raise UserError(f"{path}: not UTF-8 text; give the path of a YAML run file") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold sections ({', '.join(schema.model_fields)}), not {_brief(raw)}")
    return raw


def _override(raw: dict[str, Any], word: str) -> list[Problem]:
    """Apply one `section.key=value` to `raw`, and return the problems of it."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        return [Problem(word, "not an override; write section.key=value")]
    try:
        value = parse(text)
    except ValueError as error:
        return [Problem(key, f"{_brief(text)} is not valid YAML ({error}); quote it")]
    node: Any = raw
    *sections, last = key.split(".")
    for depth, name in enumerate([*sections, last]):
        if isinstance(node, list):
            if not name.isdecimal() or int(name) >= len(node):
                place, count = ".".join(sections[:depth]), f"{len(node)} item{'' if len(node) == 1 else 's'}"
                return [Problem(key, f"{place} has {count}; write the number of an item, counted from 0")]
            step: Any = int(name)
        else:
            step = name
            node.setdefault(step, {})
        if depth == len(sections):
            node[step] = value
        elif not isinstance(node[step], dict | list):
            node[step] = {}
        node = node[step]
    return []


def _validate(schema: type[Schema], raw: dict[str, Any]) -> tuple[Schema, list[Problem]]:
    """Validate `raw`. Record and drop each wrong key until the rest is valid."""
    problems: list[Problem] = []
    while True:
        try:
            # JSON mode is strict about types, but still converts lists to tuples and strings to paths.
            return schema.model_validate_json(json.dumps(raw)), problems
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                problem = _explain(schema, error)
                dropped = error["type"] == "missing" and any(known.key == problem.key for known in problems)
                if not dropped and not _means_default(error):
                    problems.append(problem)
                _drop(raw, error)


def _means_default(error: Any) -> bool:
    """Return whether the error is a known key without a value, as in `optimizer:` or `lr: null`."""
    in_list = any(isinstance(part, int) for part in error["loc"])
    return error["input"] is None and error["type"] != "extra_forbidden" and not in_list


def _drop(raw: dict[str, Any], error: Any) -> None:
    """Remove the wrong key. A wrong item removes its whole list, a missing key its whole section."""
    *sections, last = itertools.takewhile(lambda part: isinstance(part, str), error["loc"])
    if error["type"] == "missing" and last == error["loc"][-1]:
        *sections, last = sections
    node: Any = raw
    for name in sections:
        node = node.get(name, {})  # removed already if another item of the same list was wrong
    node.pop(last, None)


def _explain(schema: type[BaseModel], error: Any, prefix: str = "") -> Problem:
    location, kind, context = error["loc"], error["type"], error.get("ctx", {})
    key, given = prefix + ".".join(map(str, location)), _brief(error["input"])
    if kind == "extra_forbidden":
        return unknown_key(schema, location, prefix)
    if kind == "missing":
        return Problem(key, f"{_MISSING}; add it, since it has no default")
    if kind == "literal_error":
        return Problem(key, f"{given} is not one of {context['expected']}")
    if kind == "model_type":
        return Problem(
            key, f"should be a section with keys ({', '.join(_fields_at(schema, location))}), not {given}"
        )
    if kind == "too_long":
        return Problem(key, f"should be a list of {context['max_length']}, not {given}")
    if kind == "string_pattern_mismatch":
        return Problem(key, f"should contain only {FILE_NAME_CHARACTERS}, not {given}")
    scalar = not isinstance(error["input"], dict | list | None)
    quote = "; quote it if it is meant as text" if kind == "string_type" and scalar else ""
    return Problem(key, f"{in_yaml_words(error['msg'])}, not {given}{quote}")


def in_yaml_words(message: str) -> str:
    """Return a message of pydantic in the words that `gpt2dist config` has for types and limits."""
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message.partition(", unable to ")[0]  # says again that a text is not a number


def unknown_key(schema: type[BaseModel], location: tuple[int | str, ...], prefix: str = "") -> Problem:
    """Return the problem of a key that does not exist, with the key that was probably meant.

    Args:
        schema: The schema of the settings.
        location: Names and list indices from the top to the key. All but the last lead to a section.
        prefix: Dotted key of the settings with a "." if they are part of others, which `gpt2dist config` then
            does not explain.
    """
    *section, name = map(str, location)
    known = _fields_at(schema, location[:-1])
    homes = [f"{place}.{name}" for place in schema.model_fields if name in _fields_at(schema, (place,))]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    meant = [prefix + key for key in ([".".join([*section, close[0]])] if close else homes)]
    if meant:
        home = meant[0].rpartition(".")[0] if len(meant) == 1 else ""
        way_out = f"did you mean {' or '.join(meant)}?" + ("" if prefix else f" {_command(home)} lists the keys")
    elif prefix:
        way_out = f"known here: {', '.join(known)}" if known else "none is known here; remove it"
    else:
        way_out = f"known here: {', '.join(known)}; {_command('.'.join(section))} explains them"
    return Problem(prefix + ".".join([*section, name]), f"{_UNKNOWN}; {way_out}", also=tuple(meant))


def _command(section: str) -> str:
    """Return the command that explains the keys of a section, which may be an item of a list."""
    names = [name for name in section.split(".") if not name.isdecimal()]
    return f"`{' '.join(['gpt2dist config', '.'.join(names)]).rstrip()}`"


def _fields_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the known keys of the section at `location`; empty if it is not a section."""
    model: Any = schema
    for name in location:
        if isinstance(name, str):
            annotation = model.model_fields[name].annotation
            found = (annotation, *getattr(annotation, "__args__", ()))
            model = next((a for a in found if isinstance(a, type) and issubclass(a, BaseModel)), None)
    return list(model.model_fields) if model else []


def _brief(value: Any) -> str:
    """Return a value for a message, on one line and short."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
