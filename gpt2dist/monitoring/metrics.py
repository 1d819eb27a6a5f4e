"""metrics.jsonl, the record of a run, and its mirror in TensorBoard.

One object per line: `step` (optimizer steps done), `time` (seconds since 1970) and tags as keys. A resumed run
first drops the lines beyond its checkpoint, so that no step appears twice.
"""

import json
from pathlib import Path
from typing import Protocol

Value = float | int | str


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
        mirrors: Shown the same lines.
    """

    def __init__(self, path: Path, step: int, mirrors: list[Mirror]):
        self._mirrors = mirrors
        dropped, kept = _cut(path, step)
        if dropped:
            for mirror in mirrors:
                mirror.rebuild(kept)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, time: float, values: dict[str, Value]) -> None:
        """Appends one line."""
        line: dict[str, Value] = {"step": step, "time": round(time, 3), **values}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
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
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def _cut(path: Path, step: int) -> tuple[bool, list[dict[str, Value]]]:
    """Drops the lines beyond `step` from the file; says whether there were any, and what stays."""
    lines = read(path)
    kept = [line for line in lines if int(line["step"]) <= step]
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    torn = text != "" and not text.endswith("\n")  # the next line would be glued to it
    if len(kept) == len(lines) and not torn:
        return False, kept
    partial = path.with_suffix(".tmp")
    partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8")
    partial.replace(path)
    return len(kept) < len(lines), kept
