"""Read multiple-choice questions from JSON lines: HellaSwag's format, a plain one and those of others."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2dist import json_files
from gpt2dist.errors import UserError
from gpt2dist.registry import Registry


@dataclass(frozen=True)
class Question:
    """A question whose answer is the likeliest of its choices.

    Attributes:
        context: The text before each choice.
        choices: The choices, at least two, none of them empty. A space separates them from the context.
        label: Number of the right choice, from 0.
    """

    context: str
    choices: tuple[str, ...]
    label: int

    def __post_init__(self) -> None:
        if len(self.choices) < 2:
            raise ValueError(f"{len(self.choices)} choices, where a question has at least 2")
        if empty := [number for number, choice in enumerate(self.choices) if not choice.strip()]:
            raise ValueError(f"choice {empty[0]} is empty")
        if not 0 <= self.label < len(self.choices):
            raise ValueError(f"label {self.label} is not one of 0 to {len(self.choices) - 1}")


QuestionFormat = Callable[[Mapping[str, Any]], Question]
"""Function from a JSON object to its question. It raises a ValueError with a reason if the object has none."""


def plain(record: Mapping[str, Any]) -> Question:
    """Read `{"context": "The sky is", "choices": ["blue.", "a fish."], "label": 0}`."""
    return Question(_text(record, "context"), _texts(record, "choices"), _label(record))


def hellaswag(record: Mapping[str, Any]) -> Question:
    """Read a question of HellaSwag (Zellers et al. 2019) as lm-evaluation-harness does.

    The context is the activity's label and both parts of the context, the second one capitalised. Marks in
    brackets, which are left of WikiHow's pages, are removed.
    """
    first, second = _text(record, "ctx_a"), _text(record, "ctx_b")
    context = f"{_text(record, 'activity_label')}: {first} {second.capitalize()}"
    endings = tuple(map(_without_brackets, _texts(record, "endings")))
    return Question(_without_brackets(context), endings, _label(record))


BUILTIN = {name: f"{__name__}:{name}" for name in ("hellaswag", "plain")}
FORMATS: Registry[QuestionFormat] = Registry("format", "gpt2dist.question_formats", BUILTIN, object)
"""Formats of questions. Those of other packages are functions as `plain` is."""


def read_questions(path: Path, format: str | None = None) -> list[Question]:
    """Read the questions of a file, one JSON object a line. Blank lines are skipped.

    Args:
        path: The file, in UTF-8.
        format: A name of `FORMATS`, or `package.module:function`; None for HellaSwag's if the first object has
            endings, else the plain one.

    Raises:
        UserError: The format is unknown, the file cannot be read or has no question, or a line is not a question
            in this format; the message names the line.
    """
    read = None if format is None else _format(format)
    questions = []
    for number, line in _lines(path):
        try:
            record = json_files.parse(line)
            if read is None:
                format = "hellaswag" if "endings" in record else "plain"
                read = _format(format)
            questions.append(read(record))
        except ValueError as error:
            of = f" of the format {format}" if format else ""
            raise UserError(
                f"{path}:{number}: not a question{of} ({error}); fix it, or give another --format"
            ) from None
    if not questions:
        raise UserError(f"{path}: has no questions; each line must be a JSON object")
    return questions


def _format(name: str) -> QuestionFormat:
    try:
        return FORMATS.get(name)
    except ValueError as error:
        raise UserError(f"--format: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        if not path.is_file():
            raise UserError(f"--data: {path} is not a file; give JSON lines with a question each")
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        raise UserError(f"{path}: {json_files.reason(error)}; give another file") from None


def _without_brackets(text: str) -> str:
    """Remove the marks of WikiHow's pages by lm-evaluation-harness's rules, on whose quirks scores depend."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _text(record: Mapping[str, Any], key: str) -> str:
    value = _value(record, key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is {value!r:.60}, not a text")
    return _encodable(value, key)


def _texts(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = _value(record, key)
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise ValueError(f"{key} is {values!r:.60}, not a list of texts")
    return tuple(_encodable(each, key) for each in values)


def _encodable(text: str, key: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON allows
        raise ValueError(f"{key} is not Unicode") from None
    return text


def _label(record: Mapping[str, Any]) -> int:
    """Return the label, a number or its digits; test sets are published without."""
    value = _value(record, "label")
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value):
        value = int(value)
    if value in ("", None):
        raise ValueError("it has no label, as in test sets; give a validation set")
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"label is {value!r:.60}, not a number")
    return value


def _value(record: Mapping[str, Any], key: str) -> Any:
    if key not in record:
        raise ValueError(f"{key} is missing")
    return record[key]
