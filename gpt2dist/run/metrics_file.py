"""metrics.jsonl, the record of a run, from which every other presentation of the run can be rebuilt.

Each line is an object with `step` (optimizer steps done), `time` (seconds since 1970) and tags as keys. JSON has
no infinity and no NaN, so they become null. A resumed run first drops the lines beyond its checkpoint, so that no
step appears twice.
"""

import json
import os
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io

Value = float | int | str | None
"""Value of a tag. When read back, None represents a number that was not finite."""
Line = dict[str, Any]
"""`step`, `time`, and tag → `Value`."""
TAIL_BYTES = 2**18
"""Size of the first read from the end, a few hundred lines."""


class Metrics:
    """Writer of metrics.jsonl.

    Args:
        path: The file; it is created if it does not exist.
    """

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: Line) -> None:
        """Append one line."""
        self._file.write(_format_line(line))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[Line]:
    """Read the lines of a metrics.jsonl, and skip malformed ones, such as a last line truncated by a crash."""
    if not path.exists():
        return []
    lines = []
    # splitlines would also split at characters that a sample may contain. The lines are read as bytes because a
    # crash may truncate the file within a character.
    for text in path.read_bytes().split(b"\n"):
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def read_tail(path: Path, tag: str) -> list[Line]:
    """Read the last lines of a metrics.jsonl, back to at least one with `tag` if one exists.

    The file may be very long: only as much as needed is read. It may be written or replaced meanwhile: incomplete
    lines are skipped.

    Raises:
        OSError: The file does not exist or cannot be read.
    """
    with path.open("rb") as file:
        size, length = file.seek(0, os.SEEK_END), TAIL_BYTES
        while True:
            begin = max(0, size - length)
            file.seek(begin)
            texts = file.read(size - begin).split(b"\n")
            lines = [
                line for text in texts[bool(begin) :] if (line := _parse_line(text))
            ]  # the first may be partial
            if begin == 0 or any(tag in line for line in lines):
                return lines
            length *= 4


def _parse_line(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def cut_back(path: Path, step: int, evaluation_done: bool) -> list[Line]:
    """Drop the lines of a resumed run that lie beyond its checkpoint.

    Args:
        path: The file; nothing is done if it does not exist.
        step: Steps that the run has done; later lines are dropped.
        evaluation_done: Whether evaluation and samples of that step were finished; if not, their lines are
            dropped too.

    Returns:
        The remaining lines.
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
    torn = content != b"" and not content.endswith(b"\n")  # the next line would be appended to the partial one
    if len(kept) == len(lines) and not torn:
        return kept
    atomic_io.write_lines(path, map(_format_line, kept), end="")
    return kept


def _format_line(line: Line) -> str:
    return json.dumps(atomic_io.finite(line), ensure_ascii=False) + "\n"
