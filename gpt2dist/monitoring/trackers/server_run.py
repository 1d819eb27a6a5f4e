"""What the trackers of experiment servers share: one run of the server through all starts of a run directory."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

from gpt2dist import atomic_io, json_files
from gpt2dist.errors import UserError
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.metrics_file import NO_HISTORY, MetricsHistory

MEASURED = ("throughput/", "time/", "memory/")
"""Prefixes of tags that a repeated step measures anew: they do not tell whether the step went as before."""


class ServerRun:
    """The server's run that continues at each start, and what it was sent: the files in RUN/trackers/NAME.

    A run that resumes from a checkpoint repeats the steps after it. Servers cannot take values back, so a
    repeated step is sent again only if it went another way, with other settings or another number of ranks.

    Args:
        run: The run directory.
        name: Name of the tracker.

    Raises:
        UserError: A file cannot be read.
    """

    def __init__(self, run: Path, name: str):
        self.directory = RunDirectory(run).trackers / name
        self._about, self._sent_file = self.directory / "run.json", self.directory / "sent"
        try:
            self.id = _identity(self._about) if self._about.exists() else None
            self._sent = set(json_files.read_lines(self._sent_file)) if self._sent_file.exists() else set()
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.directory}: {json_files.reason(error)}; move it away: {name} then begins a new run with "
                "the whole history"
            ) from None

    def begin(self, identity: str) -> None:
        """Record a run of the server that has received nothing yet.

        Args:
            identity: Its id.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._sent_file.unlink(missing_ok=True)
        self._sent.clear()
        self.id = identity
        atomic_io.write_json(self._about, {"id": identity})

    def is_new(self, step: int, values: Mapping[str, float | str]) -> bool:
        """Return whether the server lacks these values of a step."""
        return _digest(step, values) not in self._sent

    def split(self, history: MetricsHistory) -> tuple[MetricsHistory, MetricsHistory]:
        """Return the lines that the server has, and the others, among which may be some that it has.

        Looks for the last line that it has: it receives the lines in order.
        """
        for line in reversed(history) if self._sent else ():
            measured = {tag: value for tag, value in line.items() if tag not in ("step", "time")}
            numbers = {tag: value for tag, value in measured.items() if isinstance(value, int | float)}
            told = any(not tag.startswith(MEASURED) for tag in numbers)
            if told and not self.is_new(line["step"], numbers):
                return history.split(line["step"])
        return NO_HISTORY, history

    def note(self, step: int, values: Mapping[str, float | str]) -> None:
        """Record that the server has these values of a step."""
        digest = _digest(step, values)
        self._sent.add(digest)
        with self._sent_file.open("ab") as file:
            file.write(digest + b"\n")


def _identity(path: Path) -> str:
    identity = json_files.load(path).get("id")
    if not isinstance(identity, str) or not identity:
        raise ValueError(f"{path.name} lacks the text id")
    return identity


def _digest(step: int, values: Mapping[str, float | str]) -> bytes:
    """Return a digest of a step's values that is the same when they are read back from metrics.jsonl."""
    kept = {
        tag: value
        for tag, value in values.items()
        if not tag.startswith(MEASURED) and (isinstance(value, str) or math.isfinite(value))
    }
    text = json.dumps([step, kept], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest().encode()


class BestLosses:
    """The lowest validation losses so far.

    Args:
        history: Lines of earlier starts.
    """

    def __init__(self, history: MetricsHistory = NO_HISTORY) -> None:
        self._best: dict[str, tuple[float, int]] = {}
        for line in history.containing("eval/"):
            numbers = {tag: value for tag, value in line.items() if isinstance(value, int | float)}
            self.update(line["step"], numbers)

    def update(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Take in the values of a step, and return the lowest loss of each validation set evaluated in it.

        Returns:
            `best/NAME/loss`, and `best/NAME/step`, the first step with it.
        """
        found: dict[str, float] = {}
        for tag, loss in values.items():
            if tag.startswith("eval/") and tag.endswith("/loss") and math.isfinite(loss):
                best = self._best[tag] = min(self._best.get(tag, (loss, step)), (loss, step))
                name = tag.removeprefix("eval/").removesuffix("/loss")
                found |= {f"best/{name}/loss": best[0], f"best/{name}/step": best[1]}
        return found
