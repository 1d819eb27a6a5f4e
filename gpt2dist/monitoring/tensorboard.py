"""TensorBoard tracker: a view of metrics.jsonl that can be rebuilt from it at any time."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from time import time as clock
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import custom_scalars, hparams
from torch.utils.tensorboard.summary import text as text_summary

from gpt2dist import atomic_io
from gpt2dist.monitoring import event_files
from gpt2dist.monitoring.event_files import BY_TOKENS, EventFile, Point
from gpt2dist.monitoring.trackers import Hyperparameters
from gpt2dist.run.metrics_file import NO_HISTORY, Line, MetricsHistory

LAYOUT = {
    "gpt2dist": {
        "loss": ["Multiline", [r"train/loss$", r"eval/.*/loss$"]],
        "perplexity": ["Multiline", [r"train/perplexity$", r"eval/.*/perplexity$"]],
        "throughput": ["Multiline", [r"throughput/tokens_per_second$"]],
    }
}
FIRST = "events.out.tfevents.0000000000.gpt2dist"
"""Name of the event file that TensorBoard reads first: names are sorted, and the others have the time."""
TOKENS = "progress/tokens"
PER_TAG, AT_RESTARTS = "brain.Event:1", "brain.Event:2"
"""Versions of an event file, which may change within it. In the first, an event whose step is below that of the
event before makes TensorBoard forget the later points of its tags; in the second, only a restart marker does."""
FAR_AHEAD = 2**62
LINES_WITH_TOKENS = 10_000
"""Lines among which one has the tokens trained on, unless the run does not log them."""


class TensorBoard:
    """Tracker that writes TensorBoard events over the optimizer step.

    Each loss is also written as `…_vs_tokens`, over the tokens trained on.

    Args:
        directory: Directory of the event files.
    """

    def __init__(self, directory: Path):
        self._directory = directory

    def start(self, hyperparameters: Hyperparameters, run: Path, history: MetricsHistory) -> MetricsHistory:
        """Keep the events of the history, drop the others, and ask for those that are missing, for a new file.

        Events are missing if TensorBoard was off, or after a crash of the host.
        """
        known = any(self._directory.glob(event_files.PATTERN))
        step = event_files.cut_back(self._directory, lambda point: _has(history, point), but=FIRST)
        before, missing = (NO_HISTORY, history) if step is None else history.split(step)
        self._in_table = bool(hyperparameters)
        # The experiment summary is not written, because TensorBoard would apply that of one run to all runs.
        # Without it, TensorBoard collects the hyperparameters of all runs and shows those that differ first.
        _, begin, self._end = hparams({name: _shown(value) for name, value in hyperparameters.items()}, {})
        self._write_first([custom_scalars(LAYOUT), *([begin] if self._in_table else [])], history)
        self._file = EventFile(self._directory)
        self._file.add(Event(file_version=AT_RESTARTS, wall_time=clock()))
        self._repeated = step is not None  # a running TensorBoard may know steps that come again
        self._tags: set[str] = set()  # in this file
        near = itertools.islice(reversed(before), LINES_WITH_TOKENS)
        self._tokens = next((int(line[TOKENS]) for line in near if _has_tokens(line)), 0)
        if step is None:
            # A restart marker at step 0 makes a running TensorBoard forget the run. With a later step, it would
            # also forget all points over tokens.
            self._file.add(Event(session_log=SessionLog(status=SessionLog.START), wall_time=clock()))
        if known and step is None:
            self._add(custom_scalars(LAYOUT).value, 0, clock())
        return missing

    def log(self, step: int, time: float, values: dict[str, float]) -> None:
        """Write numbers in one event, and losses over tokens in another."""
        before, self._tokens = self._tokens, int(values.get(TOKENS, self._tokens))
        if self._tokens == before:  # several lines of a step may contain it; one point is enough
            values = {tag: value for tag, value in values.items() if tag != TOKENS}
        losses = {tag: value for tag, value in values.items() if _is_loss(tag)}
        self._add(_scalars(values), step, time)
        self._add(_scalars({f"{tag}{BY_TOKENS}": value for tag, value in losses.items()}), self._tokens, time)

    def text(self, step: int, time: float, tag: str, text: str) -> None:
        """Write a text as a Markdown code block, so that it is shown verbatim."""
        self._add(text_summary(tag, f"    {text}".replace("\n", "\n    ")).value, step, time)

    def close(self, failed: bool) -> None:
        """Close the event file."""
        if self._in_table and not failed:
            self._add(self._end.value, 0, clock())
        self._file.close()

    def _write_first(self, summaries: list[Any], history: MetricsHistory) -> None:
        """Replace the file that TensorBoard reads first: of several sessions, it shows the first one."""
        times = (line.get("time") for line in history)
        time = next((each for each in times if isinstance(each, int | float)), clock())
        self._directory.mkdir(parents=True, exist_ok=True)
        events = [Event(file_version=AT_RESTARTS, wall_time=time)]
        events += [Event(summary=summary, wall_time=time) for summary in summaries]
        atomic_io.write_parts(self._directory / FIRST, map(event_files.record, events))

    def _add(self, values: Any, step: int, time: float) -> None:
        """Add an event with some values.

        After a resume, a running TensorBoard must forget what it knows from there on. Its data server does so for
        each tag when a step comes again; without the server, TensorBoard does if the file has the first version.
        """
        if not values:
            return
        event = Event(summary=Summary(value=values), step=step, wall_time=time)
        known = len(self._tags)
        self._tags.update(value.tag for value in values)
        if not self._repeated or len(self._tags) == known:
            self._file.add(event)
            return
        self._file.add(
            Event(file_version=PER_TAG, wall_time=time),
            Event(summary=Summary(), step=FAR_AHEAD, wall_time=time),
            event,
            Event(file_version=AT_RESTARTS, wall_time=time),
        )


def _has(history: MetricsHistory, point: Point) -> bool:
    """Return whether a line of a step and a time is in the history."""
    return any(line.get("time") == point.time for line in history.at(point.step))


def _is_loss(tag: str) -> bool:
    return tag == "train/loss" or (tag.startswith("eval/") and tag.endswith("/loss"))


def _scalars(values: Mapping[str, float]) -> list[Any]:
    return [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()]


def _has_tokens(line: Line) -> bool:
    return isinstance(line.get(TOKENS), int | float)


def _shown(value: bool | int | float | str) -> int | float | str:
    """Return a value for the table of hyperparameters, which would show a flag as a number."""
    return str(value).lower() if isinstance(value, bool) else value
