"""TensorBoard's event files: their writer, and which of their events a resumed run keeps, read from their end.

An event file is a sequence of records: the length of the data (8 bytes), its checksum (4), the data, and its
checksum (4). The checksums make it possible to find a record from any place in the file.
"""

import os
import re
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from gpt2dist.run.sorted_search import Found, first_late

PATTERN = "events.out.tfevents.*"
_NUMBER = re.compile(r"events\.out\.tfevents\.(\d{1,15})\.")
BY_TOKENS = "_vs_tokens"
"""End of the tags of curves over tokens, whose events have tokens in the place of the step."""
NO_LINE = ("custom_scalars__", "_hparams_/")
"""Prefixes of tags that are not from a line of metrics.jsonl."""
HEADER, FOOTER = 12, 4
BLOCK_BYTES = 2**14
"""Size of the first read that looks for a record."""
MAX_BLOCK_BYTES = 2**24


class Point(NamedTuple):
    """Where an event belongs.

    Attributes:
        step: Optimizer steps done.
        time: Seconds since 1970.
    """

    step: int
    time: float


class EventFile:
    """Writer of a new event file, which TensorBoard reads after those that exist.

    Args:
        directory: Its directory; it is created if it does not exist.

    Raises:
        OSError: The file cannot be created.
    """

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        numbers = [int(match[1]) for path in directory.iterdir() if (match := _NUMBER.match(path.name))]
        # TensorBoard sorts the names. The clock of this host may be behind that of the last one.
        number = max(int(time.time()), *(each + 1 for each in numbers), 0)
        path = directory / f"events.out.tfevents.{number:010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = path.open("xb", buffering=0)

    def add(self, *events: Any) -> None:
        """Write events so that they survive the end of this process."""
        self._file.write(b"".join(map(record, events)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def record(event: Any) -> bytes:
    """Return the record of an event."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    checksums = (struct.pack("<I", masked_crc32c(each)) for each in (length, data))
    return length + next(checksums) + data + next(checksums)


def cut_back(directory: Path, is_kept: Callable[[Point], bool], but: str) -> int | None:
    """Drop the events that do not belong to the lines that a run keeps, and those of the last of these steps.

    The last step goes too, because a crash may have cut its events off. Files are truncated, so that a running
    TensorBoard never meets an incomplete record; those without events are emptied, and removed at the next call,
    because a TensorBoard without its data server would never leave a file that is deleted while it reads it.

    The cost does not depend on the length of the files, and is logarithmic in the number of dropped events.

    Args:
        directory: The directory of the event files; it may be missing.
        is_kept: Whether the line of a step and a time is kept. In the order of the files, no line is kept after
            one that is not.
        but: Name of a file to leave alone.

    Returns:
        The step from which on the events are missing; None if no file has an event of a line that is kept.

    Raises:
        OSError: A file cannot be read or written.
    """
    for path in sorted(directory.glob(PATTERN), reverse=True):
        if path.name == but:
            continue
        if path.stat().st_size == 0:
            path.unlink()
            continue
        with path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            _, last = _first(file, end, lambda point: not is_kept(point))
            if last is None:
                file.truncate(0)
                continue
            step = last.step
            place, _ = _first(file, end, lambda point, step=step: point.step >= step)  # type: ignore[misc]
            file.truncate(place)
            return step
    return None


def _first(file: BinaryIO, end: int, is_late: Callable[[Point], bool]) -> tuple[int, Point | None]:
    return first_late(0, end, lambda start, limit: _point_from(file, start, limit, end), is_late)


def _point_from(file: BinaryIO, start: int, limit: int, end: int) -> Found[Point] | None:
    """Return the first event of a line that starts from a position on and before a limit; None without one."""
    while start < limit and (found := _record_from(file, start, limit, end)):
        if point := _point(found.item):
            return Found(found.start, found.stop, point)
        start = found.stop
    return None


def _point(event: Any) -> Point | None:
    """Return the point of an event of a line; None for other events, and for those over tokens."""
    if not event.HasField("summary"):
        return None
    tags = [value.tag for value in event.summary.value]
    of_line = any(not tag.startswith(NO_LINE) and not tag.endswith(BY_TOKENS) for tag in tags)
    return Point(event.step, event.wall_time) if of_line else None


def _record_from(file: BinaryIO, start: int, limit: int, end: int) -> Found[Any] | None:
    """Return the first whole record that starts at or after a position and before a limit; None without one."""
    length = BLOCK_BYTES
    while start < limit:
        file.seek(start)
        block = file.read(min(length, end - start))
        place = stop = 0
        for place in range(min(len(block) - HEADER + 1, limit - start)):
            stop = _stop(block, place)
            if len(block) < stop <= end - start:  # perhaps a long record: read all of it
                break
            if stop <= len(block) and _is_whole(block[place:stop]):
                return Found(start + place, start + stop, Event.FromString(block[place + HEADER : stop - FOOTER]))
        else:
            if start + len(block) >= end:
                return None
            start, length = start + max(1, len(block) - HEADER + 1), min(2 * length, MAX_BLOCK_BYTES)
            continue
        start, length = start + place, stop - place
    return None


def _stop(block: bytes, place: int) -> int:
    """Return where a record ends, perhaps after the block; 0 if none starts at this place."""
    if block[place + 4 : place + 8] != b"\0\0\0\0":  # no event has 4 GiB
        return 0
    length, checksum = struct.unpack_from("<QI", block, place)
    matches = masked_crc32c(block[place : place + 8]) == checksum
    return place + HEADER + int(length) + FOOTER if matches else 0


def _is_whole(text: bytes) -> bool:
    """Return whether the data of a record match their checksum."""
    return len(text) > 0 and masked_crc32c(text[HEADER:-FOOTER]) == struct.unpack("<I", text[-FOOTER:])[0]
