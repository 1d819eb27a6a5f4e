"""Parse YAML safely into JSON's types, without the pitfalls of YAML 1.1, and with one type of error."""

import re
from collections.abc import Callable
from typing import Any

import yaml

LONGEST = 256 * 1024
"""Maximum length of a text, in characters or bytes. A configuration has a few thousand."""
TOO_LONG = f"longer than {LONGEST // 1024} KiB, the limit for a configuration"
MOST_VALUES = 20_000
"""Maximum number of values after aliases and merge keys are expanded."""

_INTEGER = re.compile(r"^[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$")
_DECIMAL = re.compile(r"^([-+]?([0-9][0-9_]*)?\.[0-9_]*|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$")
_EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


def parse(text: str) -> Any:
    """Parse YAML into JSON's types. Time and memory are bounded by LONGEST and MOST_VALUES.

    Raises:
        ValueError: The text is invalid or too long; the message is one line, with the line number where it is
            known.
    """
    return _load(text, yaml.load)


def parse_all(text: str) -> list[Any]:
    """Parse all documents of a YAML text, as `parse` does one."""
    return _load(text, lambda text, Loader: list(yaml.load_all(text, Loader)))


def _load(text: str, load: Callable[..., Any]) -> Any:
    if len(text) > LONGEST:
        raise ValueError(TOO_LONG)
    try:
        return _Copier().plain(load(text, Loader=_Loader))  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ValueError(f"{f'line {mark.line + 1}: ' if mark else ''}{error.problem}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except Exception as error:  # a tag such as !!int raises whatever its conversion raises
        raise ValueError(" ".join(str(error).split())) from error


class _Loader(yaml.SafeLoader):
    """Safe loader closer to YAML 1.2.

    6e-4 is a number; dates, 1:00 (60 in YAML 1.1) and 010 (8 in YAML 1.1) are text; a duplicate key is an error.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise ValueError(_TOO_MANY)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> float:
        """Return an int for a whole number with an exponent, such as 10e9 (tokens), which YAML calls a float."""
        number = self.construct_yaml_float(node)
        whole = "e" in node.value.lower() and abs(number) < 2**53 and number.is_integer()
        return int(number) if whole else number


_TOO_MANY = f"more than {MOST_VALUES:,} values with aliases expanded, the limit for a configuration"
_OURS = ("int", "float", "timestamp", "value")
_FLOAT, _INT = "tag:yaml.org,2002:float", "tag:yaml.org,2002:int"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in _OURS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in ((_INT, _INTEGER), (_FLOAT, _DECIMAL), (_FLOAT, _EXPONENT)):
    _Loader.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))
_Loader.add_constructor(_FLOAT, _Loader.construct_number)


class _Copier:
    """Copy values into JSON's types, without shared parts, and count them."""

    def __init__(self) -> None:
        self._values = 0

    def plain(self, value: Any, inside: tuple[int, ...] = ()) -> Any:
        """Return a copy of `value`; `inside` holds the ids of its parents."""
        self._values += 1
        if self._values > MOST_VALUES:
            raise ValueError(_TOO_MANY)
        if isinstance(value, dict | list):
            if id(value) in inside or len(inside) > 50:
                raise ValueError("nested too deeply, or an alias inside its own anchor")
            inside = (*inside, id(value))
            if isinstance(value, dict):
                return {self.plain(str(key)): self.plain(item, inside) for key, item in value.items()}
            return [self.plain(item, inside) for item in value]
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise ValueError("a number that does not fit into 64 bits")
        if value is None or isinstance(value, bool | int | float):
            return value
        return str(value).encode(errors="replace").decode()  # a lone surrogate is not valid text
