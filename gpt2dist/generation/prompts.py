"""Prompts: texts to be continued, from files."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from gpt2dist.errors import UserError

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Attributes:
        text: To be continued; empty for the beginning of a document.
        source: Where it is from, for messages.
    """

    text: str
    source: str


def read_prompt(path: str) -> Prompt:
    """A file that is one prompt, less the newline that editors and `echo` put at the end.

    Args:
        path: The file, or "-" for standard input.

    Raises:
        UserError: It cannot be read, is blank, or is not UTF-8.
    """
    name, text = _read(path)
    return Prompt(text.removesuffix("\n").removesuffix("\r"), name)


def read_prompts(path: str) -> list[Prompt]:
    """A file with a prompt in each line that is not blank; of a .jsonl file, in the "prompt" of its object.

    Args:
        path: The file, or "-" for standard input, whose lines are prompts.

    Raises:
        UserError: It cannot be read, is blank, is not UTF-8, or a line has no prompt.
    """
    name, text = _read(path)
    lines = enumerate(text.split("\n"), start=1)  # not splitlines: a prompt may have U+2028 in it
    numbered = [(f"{name}, line {number}", line.removesuffix("\r")) for number, line in lines if line.strip()]
    decode = _prompt_of_json if name.endswith(".jsonl") else Prompt
    return [decode(line, source) for source, line in numbered]


def _prompt_of_json(line: str, source: str) -> Prompt:
    try:
        text = json.loads(line)["prompt"]
        text.encode()  # JSON may have half a character, which is no text
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(
            f'{source}: not an object with a text as its "prompt", such as {{"prompt": "Once upon"}}'
        ) from None
    return Prompt(text, source)


def _read(path: str) -> tuple[str, str]:
    """What messages call a file, and the text in it."""
    name = "standard input" if path == STANDARD_INPUT else path
    try:
        content = sys.stdin.buffer.read() if path == STANDARD_INPUT else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror}); name a file of prompts") from None
    try:
        text = content.decode("utf-8-sig")  # some editors put a mark before the text
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{name}, line {line}: not UTF-8; convert it") from None
    if not text.strip():
        raise UserError(f"{name}: no prompt in it; to begin a document from nothing, name no file")
    return name, text
