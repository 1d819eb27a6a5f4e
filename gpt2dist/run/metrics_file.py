"""metrics.jsonl, the record of a run: all else that shows the run can be made from it.

One object per line: `step` (optimizer steps done), `time` (seconds since 1970) and tags as keys. JSON has no
infinity and no NaN: they are null. A resumed run first drops the lines beyond its checkpoint, so that no step
appears twice.
"""

import json
import os
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io

Value = float | int | str | None
"""None stands for a number that was not finite, when it is read back."""
Line = dict[str, Any]
"""`step`, `time`, and tag → `Value`."""
TAIL_BYTES = 2**18
"""Some hundred lines."""


class Metrics:
    """Writes metrics.jsonl.

    Args:
        path: The file; made if it is not there.
    """

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: Line) -> None:
        """Appends one line."""
        self._file.write(_text(line))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(path: Path) -> list[Line]:
    """The lines of a metrics.jsonl; a last line that a crash tore off is left out."""
    if not path.exists():
        return []
    lines = []
    # Not splitlines, which also ends lines at characters that a sample may hold; bytes, since a tear can go
    # through a character.
    for text in path.read_bytes().split(b"\n"):
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def read_tail(path: Path, tag: str) -> list[Line]:
    """The last lines of a metrics.jsonl that may be very long, back to one with `tag` at least, if there is one.

    Reads no more than it needs, and lines only that are whole; the file may be written or replaced meanwhile.

    Raises:
        OSError: It is not there, or cannot be read.
    """
    with path.open("rb") as file:
        size, length = file.seek(0, os.SEEK_END), TAIL_BYTES
        while True:
            begin = max(0, size - length)
            file.seek(begin)
            texts = file.read(size - begin).split(b"\n")
            lines = [line for text in texts[bool(begin) :] if (line := _whole(text))]  # the first may be cut
            if begin == 0 or any(tag in line for line in lines):
                return lines
            length *= 4


def _whole(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def cut_back(path: Path, step: int, evaluation_done: bool) -> list[Line]:
    """Drops the lines of a run that goes on which lie beyond its checkpoint.

    Args:
        path: The file; nothing is done if it is not there.
        step: Steps that the run has done; later lines are dropped.
        evaluation_done: Whether evaluation and samples of that step were finished; if not, their lines are
            dropped too.

    Returns:
        What stays.
    """
    if not path.exists():
        return []
    lines = read(path)
    kept = [
        line
        for line in lines
        if int(line["step"]) < step or (int(line["step"]) == step and (evaluation_done or "train/loss" in line))
    ]
    content = path.read_bytes()
    torn = content != b"" and not content.endswith(b"\n")  # the next line would be glued to it
    if len(kept) == len(lines) and not torn:
        return kept
    atomic_io.write_lines(path, map(_text, kept), end="")
    return kept


def _text(line: Line) -> str:
    return json.dumps(atomic_io.finite(line), ensure_ascii=False) + "\n"
