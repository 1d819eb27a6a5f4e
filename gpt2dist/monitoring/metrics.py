"""metrics.jsonl, the record of a run, and its mirror in TensorBoard.

One object per line: `step` (optimizer steps done), `time` (seconds since 1970) and tags as keys. JSON has no
infinity and no NaN: they are null. A resumed run first drops the lines beyond its checkpoint, so that no step
appears twice.
"""

import json
import os
from pathlib import Path
from typing import Protocol

from gpt2dist import durable

Value = float | int | str | None
"""None stands for a number that was not finite, when it is read back."""
TAIL_BYTES = 2**18
"""Some hundred lines."""


class Mirror(Protocol):
    """Shows the same values elsewhere."""

    def write(self, line: dict[str, Value]) -> None:
        """Takes one line of metrics.jsonl."""

    def rebuild(self, lines: list[dict[str, Value]]) -> None:
        """Forgets all and takes these lines instead."""

    def close(self) -> None:
        """Brings everything to the disk."""


class Metrics:
    """Writes metrics.jsonl.

    Args:
        path: The file; made if it is not there.
        step: Steps that the run has done; later lines are dropped.
        observed: Whether evaluation and samples of that step were finished; if not, their lines are dropped too.
        mirrors: Shown the same lines.
    """

    def __init__(self, path: Path, step: int, observed: bool, mirrors: list[Mirror]):
        self._mirrors = mirrors
        if path.exists():
            kept = _cut(path, step, observed)
            for mirror in mirrors:  # they may lack lines that were not flushed, or have some that are dropped now
                mirror.rebuild(kept)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, time: float, values: dict[str, Value]) -> None:
        """Appends one line."""
        line: dict[str, Value] = {"step": step, "time": round(time, 3), **values}
        self._file.write(_text(line))
        self._file.flush()
        for mirror in self._mirrors:
            mirror.write(line)

    def close(self) -> None:
        """Closes the file and the mirrors."""
        self._file.close()
        for mirror in self._mirrors:
            mirror.close()


def read(path: Path) -> list[dict[str, Value]]:
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


def read_tail(path: Path, tag: str) -> list[dict[str, Value]]:
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


def _whole(text: bytes) -> dict[str, Value] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def _cut(path: Path, step: int, observed: bool) -> list[dict[str, Value]]:
    """Drops the lines beyond `step` from the file and returns what stays."""
    lines = read(path)
    kept = [
        line
        for line in lines
        if int(line["step"]) < step or (int(line["step"]) == step and (observed or "train/loss" in line))
    ]
    content = path.read_bytes()
    torn = content != b"" and not content.endswith(b"\n")  # the next line would be glued to it
    if len(kept) == len(lines) and not torn:
        return kept
    partial = path.with_suffix(".tmp")
    partial.write_text("".join(map(_text, kept)), encoding="utf-8")
    partial.replace(path)
    return kept


def _text(line: dict[str, Value]) -> str:
    return json.dumps(durable.finite(line), ensure_ascii=False) + "\n"
