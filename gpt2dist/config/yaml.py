"""Parse YAML safely into JSON's types, without the surprises of YAML 1.1 and with one type of error."""

import re
from typing import Any

import yaml

_EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


def parse(text: str) -> Any:
    """Parse YAML into JSON's types.

    Raises:
        ValueError: The text is invalid; the message is one line, with the line number where it is known.
    """
    try:
        return _plain(yaml.load(text, Loader=_Loader))  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ValueError(f"{f'line {mark.line + 1}: ' if mark else ''}{error.problem}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except Exception as error:  # a tag such as !!int raises any exception of its conversion
        raise ValueError(" ".join(str(error).split())) from error


class _Loader(yaml.SafeLoader):
    """Safe loader closer to YAML 1.2: 6e-4 is a number, a date is text, and a duplicate key is an error."""

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


_FLOAT = "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))
_Loader.add_constructor(_FLOAT, _Loader.construct_number)


def _plain(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """Return a copy of `value` in JSON's types, without shared parts; `inside` holds the ids of its parents."""
    if isinstance(value, dict | list):
        if id(value) in inside or len(inside) > 50:
            raise ValueError("nested too deeply, or an alias inside its own anchor")
        inside = (*inside, id(value))
        if isinstance(value, dict):
            return {_plain(str(key)): _plain(item, inside) for key, item in value.items()}
        return [_plain(item, inside) for item in value]
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise ValueError("a number that does not fit into 64 bits")
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value).encode(errors="replace").decode()  # a lone surrogate is not valid text
