"""The lines that a run keeps when it resumes, as its trackers receive them, and what it reads to find them."""

import contextlib
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt2dist.run.metrics_file import Line, Metrics, MetricsHistory


def history_of(directory: Path, lines: Iterable[Line]) -> MetricsHistory:
    """Writes the lines into a file of their own."""
    path = directory / f"{uuid.uuid4().hex}.jsonl"
    metrics = Metrics(path)
    for line in lines:
        metrics.write(line)
    metrics.close()
    return MetricsHistory(path)


class CountingFile:
    """A file that counts the bytes that are read from it."""

    def __init__(self, file: Any, counter: "Counter"):
        self._file, self._counter = file, counter

    def read(self, *size: int) -> Any:
        return self._counter.count(self._file.read(*size))

    def readline(self, *size: int) -> Any:
        return self._counter.count(self._file.readline(*size))

    def __enter__(self) -> "CountingFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Counter:
    """The bytes that were read through `Path.open`, and how often a file was opened."""

    total = opened = 0

    def count(self, content: Any) -> Any:
        self.total += len(content)
        return content


@contextlib.contextmanager
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """Counts while it is open."""
    counter, whole = Counter(), Path.open

    def opened(self: Path, *args: Any, **options: Any) -> CountingFile:
        counter.opened += 1
        return CountingFile(whole(self, *args, **options), counter)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        yield counter
