"""Read prompts from files."""

import sys
from dataclasses import dataclass
from pathlib import Path

from gpt2dist import json_files
from gpt2dist.errors import UserError

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Attributes:
        text: The text to continue; empty to start a document.
        source: File and line of the prompt, for messages.
    """

    text: str
    source: str


def read_prompt(path: str) -> Prompt:
    """Read a file as one prompt, without the newline that editors and `echo` append.

    Args:
        path: The file, or "-" for standard input.

    Raises:
        UserError: The file cannot be read, is blank, or is not UTF-8.
    """
    name, text = _read(path)
    return Prompt(text.removesuffix("\n").removesuffix("\r"), name)


def read_prompts(path: str) -> list[Prompt]:
    """Read a prompt from each non-blank line of a file; from the "prompt" of each object if it is a .jsonl file.

    Args:
        path: The file, or "-" for standard input, which is read as plain lines.

    Raises:
        UserError: The file cannot be read, is blank, is not UTF-8, or a line of .jsonl has no "prompt" text.
    """
    name, text = _read(path)
    lines = enumerate(text.split("\n"), start=1)  # not splitlines, since a prompt may contain U+2028
    numbered = [(f"{name}, line {number}", line.removesuffix("\r")) for number, line in lines if line.strip()]
    decode = _prompt_of_json if name.endswith(".jsonl") else Prompt
    return [decode(line, source) for source, line in numbered]


def _prompt_of_json(line: str, source: str) -> Prompt:
    try:
        text = json_files.parse(line)["prompt"]
        text.encode()  # fails on a lone surrogate, which JSON allows
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(
            f'{source}: not an object with the key "prompt" and a text, such as {{"prompt": "Once upon"}}'
        ) from None
    return Prompt(text, source)


def _read(path: str) -> tuple[str, str]:
    """Return the name of a file in messages, and its text."""
    name = "standard input" if path == STANDARD_INPUT else path
    try:
        content = sys.stdin.buffer.read() if path == STANDARD_INPUT else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror}); name a file of prompts") from None
    try:
        text = content.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{name}, line {line}: not UTF-8; convert it") from None
    if not text.strip():
        raise UserError(f"{name}: contains no prompt; to start a new document without one, omit the option")
    return name, text
