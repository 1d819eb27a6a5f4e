import io
import sys

import pytest

from gpt2dist.errors import UserError
from gpt2dist.generation.prompts import Prompt, read_prompt, read_prompts


@pytest.fixture
def write(tmp_path):
    def call(content, name="prompts.txt"):
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return call


@pytest.fixture
def standard_input(monkeypatch):
    def call(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return "-"

    return call


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"Once\nupon\n", "Once\nupon"),
        (b"Once\n\n", "Once\n"),
        (b"Once \r\n", "Once "),
        (b"\xef\xbb\xbfOnce", "Once"),
        ("é\u2028\n".encode(), "é\u2028"),
    ],
)
def test_a_file_is_a_prompt_without_the_newline_at_its_end(write, content, text):
    path = write(content)
    assert read_prompt(path) == Prompt(text, path)


def test_each_line_that_is_not_blank_is_a_prompt(write):
    path = write("one \r\n\n  \nté\u2028wo\nthree".encode())
    expected = [("one ", 1), ("té\u2028wo", 4), ("three", 5)]
    assert read_prompts(path) == [Prompt(text, f"{path}, line {line}") for text, line in expected]


def test_lines_of_json_have_prompts_of_any_kind(write):
    path = write(b'{"prompt": "a\\nb", "id": 1}\n\n{"prompt": ""}\n', "prompts.jsonl")
    assert [prompt.text for prompt in read_prompts(path)] == ["a\nb", ""]


def test_standard_input_is_read_too(standard_input):
    assert read_prompt(standard_input(b"a\nb\n")) == Prompt("a\nb", "standard input")
    assert [prompt.text for prompt in read_prompts(standard_input(b"a\nb\n"))] == ["a", "b"]


@pytest.mark.parametrize("read", [read_prompt, read_prompts])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "contains no prompt; to start a new document without one, omit the option"),
        (b" \n\n", "contains no prompt"),
        (b"one\ncaf\xe9\n", "line 2: not UTF-8; convert it"),
    ],
)
def test_a_file_without_text_is_refused(write, read, content, message):
    path = write(content)
    with pytest.raises(UserError) as raised:
        read(path)
    assert str(raised.value).startswith(path) and message in str(raised.value)


@pytest.mark.parametrize(("name", "reason"), [("missing.txt", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, reason):
    with pytest.raises(UserError, match=rf"{name}: cannot be read \({reason}.*\); name a file of prompts"):
        read_prompts(str(tmp_path / name))


@pytest.mark.parametrize(
    "line", [b"Once", b'"Once"', b'{"text": "Once"}', b'{"prompt": 3}', b'{"prompt": "\\ud800"}']
)
def test_a_line_of_json_without_a_prompt_is_named(write, line):
    path = write(b'{"prompt": "a"}\n' + line + b"\n", "prompts.jsonl")
    with pytest.raises(
        UserError, match=r'prompts.jsonl, line 2: not an object with the key "prompt" and a text, such'
    ):
        read_prompts(path)
