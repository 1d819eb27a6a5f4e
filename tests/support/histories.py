"""The lines that a run keeps when it resumes, as its trackers receive them."""

import uuid
from collections.abc import Iterable
from pathlib import Path

from gpt2dist.run.metrics_file import History, Line, Metrics


def history_of(directory: Path, lines: Iterable[Line]) -> History:
    """Writes the lines into a file of their own."""
    path = directory / f"{uuid.uuid4().hex}.jsonl"
    metrics = Metrics(path)
    for line in lines:
        metrics.write(line)
    metrics.close()
    return History(path)
