"""Progress display of preprocessing, and the number of its workers."""

import os
from typing import TYPE_CHECKING, Any

from gpt2dist.monitoring.progress import Progress, info, warn

if TYPE_CHECKING:
    from gpt2dist.preprocessing.atomic_output import Counts


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Display:
    """Progress display of `prepare` on standard error, used as a context manager.

    Attributes:
        worked: Bytes of the corpus read by this job, without those read before an interruption.
    """

    def __init__(self) -> None:
        self.worked = 0
        self._progress: Progress | None = None
        self._before = 0

    def update(self, counts: "Counts", total: int) -> None:
        """Show the work done so far."""
        if self._progress is None:
            self._before = counts.bytes
            self._progress = Progress("preprocess", total or None, "B", initial=counts.bytes, scale=True)
        details = {"documents": f"{counts.documents:,}", "tokens": f"{counts.tokens:,}"}
        if counts.rejected:
            details["rejected"] = f"{counts.rejected:,}"
        if counts.skipped:
            details["skipped"] = f"{counts.skipped:,}"
        # A task that ends between two updates may briefly be counted twice or not at all. Never go backwards.
        worked = max(counts.bytes - self._before, self.worked)
        self._progress.advance(worked - self.worked, **details)
        self.worked = worked

    def info(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        (self._progress.info if self._progress else info)(text, "preprocess")

    def warn(self, text: str) -> None:
        """Print a warning, above the bar if there is one."""
        (self._progress.warn if self._progress else warn)(text, "preprocess")

    def close(self) -> None:
        """Close the bar."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
