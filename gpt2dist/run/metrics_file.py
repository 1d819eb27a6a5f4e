"""metrics.jsonl, the record of a run, from which every other presentation of the run can be rebuilt.

Each line is an object with `step` (optimizer steps done), `time` (seconds since 1970) and tags as keys. JSON has
no infinity and no NaN, so they become null. A resumed run first drops the lines beyond its checkpoint, so that no
step appears twice. Steps therefore never decrease, and a step is found by a search from the end of the file, at a
cost that does not depend on its length.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from gpt2dist import atomic_io, json_files
from gpt2dist.errors import RunError, UserError
from gpt2dist.run.sorted_search import Found, first_late

Value = float | int | str | None
"""Value of a tag. When read back, None represents a number that was not finite."""
Line = dict[str, Any]
"""`step`, `time`, and tag → `Value`."""
TRAINED = "train/loss"
"""Tag that only training lines have, unlike those of evaluations and samples."""
TAIL_BYTES = 2**18
"""Size of the first read from the end, a few hundred lines."""
MAX_TAIL_BYTES = 2**26
"""Size of the last read from the end, if the tag has not been found: some ten thousand lines."""
BLOCK_BYTES = 2**12
"""Size of the first read that looks for a line. Reads of longer lines grow."""
MAX_BLOCK_BYTES = 2**22

_MOVE = "move it away: the run then starts a new one"
_BEGIN = re.compile(rb'\{"step": (\d{1,15}), "time": (\d{1,15}(?:\.\d{1,15})?), ')
"""How lines begin as they are written here."""
_TRAINED = f'"{TRAINED}": '.encode()


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


class MetricsHistory:
    """The lines of a metrics.jsonl, or of a part of it, without malformed ones. Does not hold them in memory.

    Lines that are appended later do not belong to it. A missing file has no lines.

    Args:
        path: The file.
        begin: Where the first line starts, in bytes.
        end: Where the last line ends; None for the current end of the file.

    Raises:
        UserError: The file exists and cannot be read.
    """

    def __init__(self, path: Path, begin: int = 0, end: int | None = None):
        self.path, self.begin = path, begin
        self.end = _size(path) if end is None else end

    def __iter__(self) -> Iterator[Line]:
        """Yield the lines from the first one on.

        Raises:
            UserError: The file cannot be read.
        """
        # The lines are read as bytes because a crash may truncate the file within a character.
        return (line for text in self._texts() if (line := _parse_line(text)))

    def __reversed__(self) -> Iterator[Line]:
        """Yield the lines from the last one on.

        Raises:
            UserError: The file cannot be read.
        """
        if self.begin >= self.end:
            return
        with self._opened() as file:
            stop, length, rest = self.end, BLOCK_BYTES, b""
            while stop > self.begin:
                start = max(self.begin, stop - length)
                rest, *texts = (_read_at(file, start, stop) + rest).split(b"\n")  # the first one may be partial
                yield from (line for text in reversed(texts) if (line := _parse_line(text)))
                stop, length = start, min(2 * length, MAX_BLOCK_BYTES)
            if line := _parse_line(rest):
                yield line

    def containing(self, tag_prefix: str) -> Iterator[Line]:
        """Yield the lines with a tag of this prefix. Parses only those, so that a long file takes a second.

        Raises:
            UserError: The file cannot be read.
        """
        wanted = json.dumps(tag_prefix, ensure_ascii=False)[:-1].encode()
        lines = (line for text in self._texts() if wanted in text and (line := _parse_line(text)))
        return (line for line in lines if any(tag.startswith(tag_prefix) for tag in line))

    def split(self, step: int) -> tuple["MetricsHistory", "MetricsHistory"]:
        """Return the lines before a step, and the others. Takes a few reads, however long the file is.

        Raises:
            UserError: The file cannot be read.
        """
        if self.begin >= self.end:
            return self, self
        with self._opened() as file:
            place, _ = first_late(
                self.begin,
                self.end,
                lambda start, limit: self._line_from(file, start, limit),
                lambda line: bool(line["step"] >= step),
            )
        return MetricsHistory(self.path, self.begin, place), MetricsHistory(self.path, place, self.end)

    def at(self, step: int) -> list[Line]:
        """Return the lines of a step. Takes a few reads, however long the file is.

        Raises:
            UserError: The file cannot be read.
        """
        return list(self.split(step)[1].split(step + 1)[0])

    def up_to(self, step: int, evaluation_done: bool) -> "MetricsHistory":
        """Return the lines that a run keeps which resumes from a checkpoint. Takes a few reads.

        Args:
            step: Steps that the run has done; later lines are omitted.
            evaluation_done: Whether evaluation and samples of that step were finished; if not, their lines are
                omitted, too.

        Raises:
            UserError: The file cannot be read.
        """
        kept = self.split(step + 1)[0]
        if evaluation_done or kept.begin >= kept.end:
            return kept
        end = kept.split(step)[1].begin
        with self._opened() as file:
            while (found := self._line_from(file, end, kept.end)) and TRAINED in found.item:
                end = found.stop
        return MetricsHistory(self.path, self.begin, end if found else kept.end)

    def _texts(self) -> Iterator[bytes]:
        if self.begin >= self.end:
            return
        try:
            yield from json_files.read_lines(self.path, begin=self.begin, end=self.end)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: {json_files.reason(error)}; {_MOVE}") from None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb") as file:
                yield file
        except OSError as error:
            raise UserError(f"{self.path}: {json_files.reason(error)}; {_MOVE}") from None

    def _line_from(self, file: BinaryIO, position: int, limit: int) -> Found[Line] | None:
        """Return the first line that starts at or after a position and before a limit; None without one."""
        # A line starts after a newline, which may be just before the position.
        start = position if position == self.begin else self._after_newline(file, position - 1)
        while start < limit:
            stop = self._after_newline(file, start)
            if line := _parse_line(_read_at(file, start, stop).removesuffix(b"\n")):
                return Found(start, stop, line)
            start = stop
        return None

    def _after_newline(self, file: BinaryIO, start: int) -> int:
        """Return where the line ends that has the byte at `start`."""
        length = BLOCK_BYTES
        while start < self.end:
            block = _read_at(file, start, min(self.end, start + length))
            if (place := block.find(b"\n")) >= 0:
                return start + place + 1
            if not block:
                break
            start, length = start + len(block), min(2 * length, MAX_BLOCK_BYTES)
        return self.end


NO_HISTORY = MetricsHistory(Path(), end=0)


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
    return iter(MetricsHistory(path))


def read_tail(path: Path, tag: str) -> list[Line]:
    """Read the last lines of a metrics.jsonl, back to at least one with `tag` if one exists.

    The file may be very long: only as much as needed is read. It may be written or replaced meanwhile: incomplete
    lines are skipped.

    Raises:
        OSError: The file does not exist or cannot be read.
        ValueError: It is not a regular file.
    """
    return [line for text in _tail_texts(path, json.dumps(tag).encode()) if (line := _parse_line(text))]


class Recent(NamedTuple):
    """What the last lines say of the progress of a run.

    Attributes:
        last: The last training line; empty without one.
        times: The times of all of these lines, in seconds since 1970.
        trained: Step and time of the training lines among them.
    """

    last: Line
    times: list[float]
    trained: list[tuple[int, float]]


def read_recent(path: Path) -> Recent:
    """Read some hundred lines at the end, back to a training line if one exists. Parses only one of them.

    Raises:
        OSError: As for `read_tail`.
        ValueError: As for `read_tail`.
    """
    texts = _tail_texts(path, _TRAINED)
    times: list[float] = []
    trained: list[tuple[int, float]] = []
    step: int
    time: Value
    for text in texts:
        if (begin := _BEGIN.match(text)) and text.endswith(b"}"):
            step, time, is_trained = int(begin[1]), float(begin[2]), _TRAINED in text
        else:
            line = _parse_line(text) or {}
            step, time, is_trained = line.get("step", 0), line.get("time"), TRAINED in line
        if isinstance(time, int | float):
            times.append(time)
            trained += [(step, time)] if is_trained else []
    lines = (_parse_line(text) or {} for text in reversed(texts))
    return Recent(next((line for line in lines if TRAINED in line), {}), times, trained)


def _tail_texts(path: Path, wanted: bytes) -> list[bytes]:
    """Return the last lines, back to at least one that contains `wanted` if one exists."""
    if path.exists() and not json_files.is_file(path):
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        size, length = file.seek(0, os.SEEK_END), TAIL_BYTES
        while True:
            begin = max(0, size - length)
            texts = _read_at(file, begin, size).split(b"\n")[bool(begin) :]  # the first may be partial
            found = any(wanted in text and _parse_line(text) for text in reversed(texts))
            if begin == 0 or length >= MAX_TAIL_BYTES or found:
                return texts
            length *= 4


def cut_back(path: Path, step: int, evaluation_done: bool) -> MetricsHistory:
    """Drop the lines that a run wrote after the checkpoint from which it resumes.

    The file is truncated in place, so a crash leaves it as it was or as it should be. The cost does not depend on
    the length of the file.

    Args:
        path: The file; nothing is done if it does not exist.
        step: As for `MetricsHistory.up_to`.
        evaluation_done: As for `MetricsHistory.up_to`.

    Returns:
        The remaining lines.

    Raises:
        UserError: The file exists and cannot be read or written.
    """
    history = MetricsHistory(path)
    if history.end == 0:
        return history
    try:
        kept = history.up_to(step, evaluation_done)
        with path.open("r+b") as file:
            end = _whole_end(file, kept)
            if end < history.end:
                file.truncate(end)
            elif end > history.end:  # only its newline is missing
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
            else:
                return kept
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); {_MOVE}") from None
    return MetricsHistory(path, 0, end)


def _whole_end(file: BinaryIO, kept: MetricsHistory) -> int:
    """Return where the kept lines end, without a last one that a crash truncated: the next would be added to it.

    A last line that lacks only its newline counts with its newline.
    """
    if kept.end == 0 or _read_at(file, kept.end - 1, kept.end) == b"\n":
        return kept.end
    length = BLOCK_BYTES
    while True:
        start = max(0, kept.end - length)
        newline = _read_at(file, start, kept.end).rfind(b"\n")
        if newline >= 0 or start == 0:
            begin = start + newline + 1
            return kept.end + 1 if _parse_line(_read_at(file, begin, kept.end)) else begin
        length *= 4


def _parse_line(text: bytes) -> Line | None:
    try:
        line = json_files.parse(text, infinite=True)
    except ValueError:
        return None
    step = line.get("step")
    return line if isinstance(step, int) and not isinstance(step, bool) and step >= 0 else None


def _size(path: Path) -> int:
    """Return the length of a file; 0 if it does not exist.

    Raises:
        UserError: It is not a regular file.
    """
    if path.exists() and not json_files.is_file(path):
        raise UserError(f"{path}: not a regular file; {_MOVE}")
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise UserError(f"{path}: {json_files.reason(error)}; {_MOVE}") from None


def _read_at(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)


def _format_line(line: Line) -> str:
    return json.dumps(atomic_io.finite(line), ensure_ascii=False) + "\n"
