"""Read a run configuration from YAML and `section.key=value`, and report all mistakes together.

`read` does not stop at the first mistake. It replaces a wrong value with the default and records a `Problem`, so
that checks across several keys (`preflight`) can still examine the valid ones.
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

_WORDS = {"Input ": "", "a valid array": "a list", "a valid integer": "an integer", "an object": "a mapping"}
"""JSON terms in pydantic's messages → the terms that users of YAML know."""


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


def raise_problems(problems: Iterable[Problem], where: str) -> None:
    """Raise one UserError that lists every problem with its key, or do nothing if there are no problems."""
    listed = list(dict.fromkeys(problems))
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
                place, count = ".".join(sections[:depth]), len(node)
                return [Problem(key, f"{place} is a list of {count}: name an item by its number, from 0")]
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
                problem = _explain(error, schema)
                dropped = error["type"] == "missing" and any(told.key == problem.key for told in problems)
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


def _explain(error: Any, root: type[BaseModel]) -> Problem:
    location, kind, context = error["loc"], error["type"], error.get("ctx", {})
    key, given = ".".join(map(str, location)), _brief(error["input"])
    if kind == "extra_forbidden":
        return _unknown(location, root)
    if kind == "missing":
        return Problem(key, "is required here and missing; add it")
    if kind == "literal_error":
        return Problem(key, f"{given} is not one of {context['expected']}")
    if kind == "model_type":
        return Problem(
            key, f"should be a section with keys ({', '.join(_fields_at(location, root))}), not {given}"
        )
    if kind == "less_than_equal" and context["le"] > 1:
        return Problem(key, f"{given} is more than any run can have; at most {context['le']:,.0f}")
    if kind == "too_long":
        return Problem(key, f"should be a list of {context['max_length']}, not {given}")
    if kind == "string_pattern_mismatch":
        return Problem(key, f"should be made of letters, digits, '.', '_' and '-', not {given}")
    message = error["msg"]
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    scalar = not isinstance(error["input"], dict | list | None)
    quote = "; quote it if it is meant as text" if kind == "string_type" and scalar else ""
    return Problem(key, f"{message.replace('valid ', '')}, not {given}{quote}")


def _unknown(location: tuple[int | str, ...], root: type[BaseModel]) -> Problem:
    *section, name = map(str, location)
    known = _fields_at(location[:-1], root)
    homes = [f"{place}.{name}" for place in root.model_fields if name in _fields_at((place,), root)]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    meant = [".".join([*section, close[0]])] if close else homes
    way_out = f"did you mean {' or '.join(meant)}?" if meant else f"known here: {', '.join(known)}"
    return Problem(".".join([*section, name]), f"unknown key; {way_out}", also=tuple(meant))


def _fields_at(location: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    """Return the known keys of the section at `location`; empty if it is not a section."""
    model: Any = root
    for name in location:
        if isinstance(name, str):
            annotation = model.model_fields[name].annotation
            found = (annotation, *getattr(annotation, "__args__", ()))
            model = next((a for a in found if isinstance(a, type) and issubclass(a, BaseModel)), None)
    return list(model.model_fields) if model else []


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
