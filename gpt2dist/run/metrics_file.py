"""metrics.jsonl, the record of a run, from which every other presentation of the run can be rebuilt.

Each line is an object with `step` (optimizer steps done), `time` (seconds since 1970) and tags as keys. JSON has
no infinity and no NaN, so they become null. A resumed run first drops the lines beyond its checkpoint, so that no
step appears twice.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from gpt2dist import atomic_io, json_files
from gpt2dist.errors import RunError, UserError

Value = float | int | str | None
"""Value of a tag. When read back, None represents a number that was not finite."""
Line = dict[str, Any]
"""`step`, `time`, and tag → `Value`."""
TAIL_BYTES = 2**18
"""Size of the first read from the end, a few hundred lines."""
MAX_TAIL_BYTES = 2**26
"""Size of the last read from the end, if the tag has not been found: some ten thousand lines."""

_MOVE = "move it away: the run then starts a new one"


class FileLostError(RunError):
    """metrics.jsonl was deleted or moved while the run trained."""


class Metrics:
    """Writer of metrics.jsonl.

    Args:
        path: The file; it is created if it does not exist.

    Raises:
        UserError: The file cannot be opened.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file = self._open()

    def write(self, line: Line) -> None:
        """Append one line.

        Raises:
            FileLostError: The file was deleted or moved, and with it probably the run directory.
            UserError: The file was replaced, and the new one cannot be opened.
        """
        self._require_in_place()
        self._file.write(_format_line(line))
        self._file.flush()

    def _open(self) -> TextIO:
        try:
            return self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self._path}: cannot be opened ({error.strerror}); {_MOVE}") from None

    def _require_in_place(self) -> None:
        """Check that the path still leads to the open file: writing to a deleted one succeeds without a trace."""
        try:
            if self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:  # replaced, as editors do
                self._file.close()
                self._file = self._open()
        except (FileNotFoundError, NotADirectoryError):
            gone = self._path if self._path.parent.is_dir() else self._path.parent
            raise FileLostError(
                f"{gone}: was deleted or moved while the run trained, so that its results would be lost; the run "
                "ends. Put it back, if you can, and start the run again: it resumes from its newest checkpoint, "
                "if there is one"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[Line]:
    """Read all lines of a metrics.jsonl; see `stream`.

    Raises:
        UserError: The file exists and cannot be read.
    """
    return list(stream(path))


def stream(path: Path) -> Iterator[Line]:
    """Yield the lines of a metrics.jsonl, without malformed ones, such as a last line truncated by a crash.

    Raises:
        UserError: The file exists and cannot be read.
    """
    # The lines are read as bytes because a crash may truncate the file within a character.
    return (line for text in _lines(path) if (line := _parse_line(text)))


def read_tail(path: Path, tag: str) -> list[Line]:
    """Read the last lines of a metrics.jsonl, back to at least one with `tag` if one exists.

    The file may be very long: only as much as needed is read. It may be written or replaced meanwhile: incomplete
    lines are skipped.

    Raises:
        OSError: The file does not exist or cannot be read.
        ValueError: It is not a regular file.
    """
    if path.exists() and not json_files.is_file(path):
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        size, length = file.seek(0, os.SEEK_END), TAIL_BYTES
        while True:
            begin = max(0, size - length)
            file.seek(begin)
            texts = file.read(size - begin).split(b"\n")
            lines = [
                line for text in texts[bool(begin) :] if (line := _parse_line(text))
            ]  # the first may be partial
            if begin == 0 or length >= MAX_TAIL_BYTES or any(tag in line for line in lines):
                return lines
            length *= 4


def _parse_line(text: bytes) -> Line | None:
    try:
        line = json_files.parse(text, infinite=True)
    except ValueError:
        return None
    step = line.get("step")
    return line if isinstance(step, int) and not isinstance(step, bool) and step >= 0 else None


def _lines(path: Path) -> Iterator[bytes]:
    if not path.exists():
        return
    try:
        yield from json_files.read_lines(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {json_files.reason(error)}; {_MOVE}") from None


def lines_up_to(path: Path, step: int, evaluation_done: bool) -> list[Line]:
    """Return the lines that a run keeps which resumes from a checkpoint.

    Args:
        path: The file; it may be missing.
        step: Steps that the run has done; later lines are omitted.
        evaluation_done: Whether evaluation and samples of that step were finished; if not, their lines are
            omitted, too.
    """
    return _up_to(read(path), step, evaluation_done)


def cut_back(path: Path, step: int, evaluation_done: bool) -> list[Line]:
    """Drop the lines that a run wrote after the checkpoint from which it resumes.

    Args:
        path: The file; nothing is done if it does not exist.
        step: As for `lines_up_to`.
        evaluation_done: As for `lines_up_to`.

    Returns:
        The remaining lines.
    """
    if not path.exists():
        return []
    lines = read(path)
    kept = _up_to(lines, step, evaluation_done)
    truncated = _is_truncated(path)  # the next line would be appended to the partial one
    if len(kept) == len(lines) and not truncated:
        return kept
    atomic_io.write_lines(path, map(_format_line, kept), end="")
    return kept


def _up_to(lines: list[Line], step: int, evaluation_done: bool) -> list[Line]:
    return [
        line
        for line in lines
        if line["step"] < step or (line["step"] == step and (evaluation_done or "train/loss" in line))
    ]


def _is_truncated(path: Path) -> bool:
    """Return whether the last line of a file lacks its newline."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _format_line(line: Line) -> str:
    return json.dumps(atomic_io.finite(line), ensure_ascii=False) + "\n"
