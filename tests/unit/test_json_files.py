import dataclasses
import json
import math
import os

import pytest

from gpt2dist import json_files
from gpt2dist.errors import UserError


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    names: tuple[str, ...] = ()

    def __post_init__(self):
        if self.x < 0:
            raise ValueError(f"x is {self.x}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("{", "not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[1]", "a list instead of an object"),
        ("null", "null instead of an object"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1e999}', "the number 1e999 is not finite"),
        ('{"a": ' + "9" * 5000 + "}", f"the number {'9' * 20} is not finite"),
    ],
)
def test_what_is_no_object_of_json_is_refused(text, reason):
    with pytest.raises(ValueError) as raised:
        json_files.parse(text)
    assert str(raised.value) == reason


def test_numbers_are_exact_up_to_64_bits():
    text = f'{{"a": {2**63 - 1}, "b": {-(2**63)}, "c": {int(1e30)}, "d": 0.1}}'
    assert json_files.parse(text) == {"a": 2**63 - 1, "b": -(2**63), "c": 1e30, "d": 0.1}


def test_numbers_that_are_not_finite_are_none_where_asked():
    text = json.dumps({"a": math.nan, "b": -math.inf, "c": 1.5})[:-1] + ', "d": 1e999}'
    assert json_files.parse(text, infinite=True) == {"a": None, "b": None, "c": 1.5, "d": None}


def fifo(path):
    os.mkfifo(path)


def loop(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (fifo, "not a regular file"),
        (os.mkdir, "not a regular file"),
        (loop, "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to("gone"), "No such file or directory"),
        (
            lambda path: path.write_bytes(b" " * 2000),
            "2,000 bytes, more than the 1,000 that are allowed",
        ),
        (lambda path: path.write_text("[]"), "a list instead of an object"),
    ],
)
def test_a_message_names_the_file_the_reason_and_the_way_out(tmp_path, make, reason):
    path = tmp_path / "facts.json"
    make(path)
    with pytest.raises(UserError) as raised:
        json_files.require(path, "copy it again", limit=1000)
    assert str(raised.value) == f"{path}: {reason}; copy it again"
    assert json_files.is_file(path) == (reason[0] in "2a")


def test_a_name_that_no_file_can_have(tmp_path):
    assert not json_files.is_file(tmp_path / "a\0b") and not json_files.is_file(tmp_path / ("x" * 5000))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "x is missing"),
        ({"x": "1"}, "x is '1', not a whole number"),
        ({"x": True}, "x is True, not a whole number"),
        ({"x": None}, "x is None, not a whole number"),
        ({"x": -1}, "x is -1"),
        ({"x": 1, "names": ["a", 2]}, "names.1 is 2, not a text"),
    ],
)
def test_each_key_has_its_type(content, reason):
    with pytest.raises(ValueError) as raised:
        json_files.build(Point, content)
    assert str(raised.value) == reason


def test_a_dataclass_is_built_from_json():
    assert json_files.build(Point, {"x": 3, "names": ["a"], "more": 1}) == Point(3, ("a",))


def test_lines_are_checked_and_named(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"n": 1}\n{"n": true}\n')
    lines = json_files.require_lines(path, {"n": int}, "copy it again")
    assert next(lines) == {"n": 1}
    with pytest.raises(UserError, match=r"lines\.jsonl, line 2: n is not a number; copy it again"):
        next(lines)


def test_output_is_text_unless_it_cannot_be_encoded():
    assert json_files.dump({"a": "é"}) == '{"a": "é"}'
    assert json_files.dump({"a": "é\udcff"}) == r'{"a": "\u00e9\udcff"}'
