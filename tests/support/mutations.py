"""Seeded damage to one file: each `Mutation` has a name, for messages, and says whether it only changes a value.

A change of value leaves a file whole, such as another number where a number was. A program that reads the file
cannot know that it is wrong unless something else says so, such as a hash.
"""

import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OTHERS: list[Any] = [None, True, False, 0, -1, 1.5, "text", "", [], {}, [1], {"a": 1}, [[]], "0"]
RAW_NUMBERS = [
    "1e308",
    "-1e308",
    "9223372036854775807",
    "1e999",
    "1" * 400,
    "1" * 5000,
    "NaN",
    "Infinity",
    "-0.0",
]
TEXTS = ["\0", "a\0b", "\ud800", "x" * 5000, "../..", "/", "\x1b[2J", "\u202e", " ", "é"]
MARK = "@here@"


@dataclass(frozen=True)
class Mutation:
    """Damage to a file.

    Attributes:
        name: What it does, for messages.
        changes_value: Whether the file stays well formed, with another value.
        apply: Does it.
    """

    name: str
    changes_value: bool
    apply: Callable[[Path], None]


def draw_mutation(draw: random.Random, path: Path) -> Mutation:
    """Draw damage to a file that is whole."""
    content = path.read_bytes()
    kind = draw.choice(["structure"] * 5 + ["bytes"] * 3 + ["place"] * 2)
    if kind == "place":
        return draw.choice(PLACES)
    if kind == "structure" and path.suffix == ".json":
        return _of_json(draw, content)
    if kind == "structure" and path.suffix == ".jsonl":
        return _of_json_line(draw, content)
    if kind == "structure" and path.suffix == ".safetensors":
        return _of_header(draw, content)
    return _of_bytes(draw, content)


def _replace(content: bytes) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.write_bytes(content)

    return apply


# --- The whole file ---------------------------------------------------------------------------------------


def _of_bytes(draw: random.Random, content: bytes) -> Mutation:
    place = draw.randrange(len(content) + 1)
    kind = draw.choice(["flip", "flip", "truncate", "extend", "insert", "other", "zeros"])
    if kind == "flip" and content:
        changed = bytearray(content)
        bits = [draw.randrange(8 * len(content)) for _ in range(draw.choice([1, 1, 2, 8]))]
        for bit in bits:
            changed[bit // 8] ^= 1 << bit % 8
        return Mutation(f"flip bits {bits}", True, _replace(bytes(changed)))
    if kind == "truncate":
        return Mutation(f"truncate to {place} bytes", False, _replace(content[:place]))
    if kind == "extend":
        more = draw.choice([b"\0", b"\0" * 4096, b"}", b"\n", b"\n{}\n", b"\xff", content])
        return Mutation(f"extend by {len(more)} bytes {more[:5]!r}", False, _replace(content + more))
    if kind == "insert":
        some = draw.choice([b"\xff", b"\0", b"\xed\xa0\x80", b"[" * 100_000, b"\r\n"])
        return Mutation(
            f"insert {len(some)} bytes {some[:5]!r} at {place}",
            True,
            _replace(content[:place] + some + content[place:]),
        )
    if kind == "zeros":
        end = min(len(content), place + 512)
        return Mutation(
            f"zeros at {place} … {end}", True, _replace(content[:place] + b"\0" * (end - place) + content[end:])
        )
    whole = draw.choice(
        [b"", b"\n", b"null", b"[]", b"{}", b"3", b'"text"', b"[" * 200_000, b"\xff\xfe", b"\0" * 99]
    )
    return Mutation(f"replace by {len(whole)} bytes {whole[:8]!r}", False, _replace(whole))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _sparse(path: Path) -> None:
    os.truncate(path, 1 << 31)


PLACES = [
    Mutation("replace by a FIFO", False, _fifo),
    Mutation("replace by a directory", False, _directory),
    Mutation("replace by a link to itself", False, _loop),
    Mutation("replace by a link to nowhere", False, _nowhere),
    Mutation("replace by a link to /dev/zero", False, _device),
    Mutation("extend to 2 GiB", False, _sparse),
    Mutation("remove", False, Path.unlink),
]


# --- JSON -------------------------------------------------------------------------------------------------


def _of_json(draw: random.Random, content: bytes) -> Mutation:
    name, changes_value, text = mutate_json(draw, json.loads(content))
    return Mutation(name, changes_value, _replace(text.encode("utf-8", "surrogatepass")))


def _of_json_line(draw: random.Random, content: bytes) -> Mutation:
    lines = content.splitlines()
    number = draw.randrange(len(lines))
    name, changes_value, text = mutate_json(draw, json.loads(lines[number]))
    lines[number] = text.encode("utf-8", "surrogatepass")
    return Mutation(f"line {number + 1}: {name}", changes_value, _replace(b"\n".join(lines) + b"\n"))


def _of_header(draw: random.Random, content: bytes) -> Mutation:
    """Damage the header of a safetensors file, an 8-byte length and JSON."""
    (length,) = struct.unpack("<Q", content[:8])
    if draw.random() < 0.15:
        length = draw.choice([0, 1, length - 1, length + 8, 1 << 40, (1 << 64) - 1])
        return Mutation(f"header of {length} bytes", False, _replace(struct.pack("<Q", length) + content[8:]))
    name, changes_value, text = mutate_json(draw, json.loads(content[8 : 8 + length]))
    header = text.encode("utf-8", "surrogatepass")
    whole = struct.pack("<Q", len(header)) + header + content[8 + length :]
    return Mutation(f"header: {name}", changes_value, _replace(whole))


def mutate_json(draw: random.Random, value: Any) -> tuple[str, bool, str]:
    """Change one place of a JSON value; return what was done, whether types are the same, and the text."""
    keys = draw.choice(list(_places(value)) or [()])
    if not keys:
        other = draw.choice(OTHERS)
        return f"whole → {other!r}", False, json.dumps(other)
    *outer, last = keys
    node = value
    for key in outer:
        node = node[key]
    before, where = node[last], ".".join(map(str, keys))
    kind = draw.choice(["drop", "type", "type", "number", "text", "nest", "same", "key", "twice"])
    if kind == "drop":
        del node[last]
        return f"{where} dropped", False, json.dumps(value)
    if kind == "type":
        node[last] = draw.choice([each for each in OTHERS if type(each) is not type(before)])
        return f"{where} → {node[last]!r}", False, json.dumps(value)
    if kind == "key" and isinstance(node, dict):
        node[draw.choice(TEXTS)] = node.pop(last)
        return f"{where} renamed", False, json.dumps(value)
    if kind == "twice" and isinstance(node, list):
        node.append(before)
        return f"{where} twice", False, json.dumps(value)
    if kind == "same":
        node[last] = _same_type(draw, before)
        return f"{where} {str(before)[:20]} → {str(node[last])[:20]}", True, json.dumps(value)
    number, text = draw.choice(RAW_NUMBERS), draw.choice(TEXTS)
    raw = {"number": number, "text": json.dumps(text)}.get(kind, '{"a":[' * 50_000)
    node[last] = MARK
    same = (kind == "text" and isinstance(before, str)) or (kind == "number" and isinstance(before, int | float))
    return f"{where} → {raw[:20]}", same, json.dumps(value).replace(json.dumps(MARK), raw)


def _same_type(draw: random.Random, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice([value + 1, value - 1, 0, 2 * value, -value, 10**9, 2**62])
    if isinstance(value, float):
        return draw.choice([2 * value, -value, 0.0, 1e-300, 1e300])
    if isinstance(value, str):
        return draw.choice([value[:-1], value + "a", "other", value.upper()])
    if isinstance(value, list):
        return value[::-1]
    return value


def _places(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values; of a long list only those of its ends."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return
    for key, item in items if len(items) <= 24 else items[:6] + items[-6:]:
        yield (*keys, key)
        yield from _places(item, (*keys, key))
