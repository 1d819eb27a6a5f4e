"""Determine the status of a run from its directory alone.

The states, and how each is recognised:

submitted   No job is active, and the job that was submitted last has not started to train.
running     A job holds the lock of the directory. If the lock proves nothing (the job is on another host, or the
            file system has no locks): the last sign of life is as recent as the run's pace implies.
stale       As running, but without a recent sign of life: the job hangs, its host is down, or a step takes longer
            than any before it. A job on this host that holds the lock is never stale, since its watchdog
            kills it if it hangs.
finished    No job is active, and a checkpoint of the last step exists or `evaluation.patience` ended the run.
failed      No job is active, and the last job left failed.json or no marker file. Without a marker file, it hung
            if its log ends with the watchdog's stacks, and was killed otherwise.
stopped     No job is active, and the last job left stopped.json or reached `run.stop_after_steps`.

A sign of life is a line in metrics.jsonl, a checkpoint, or the acquisition of the lock.
"""

import dataclasses
import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any, Literal

from gpt2dist.errors import PeerLostError
from gpt2dist.run import end_markers, lock, starts
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.metrics_file import TRAINED, Recent
from gpt2dist.status import run_files
from gpt2dist.status.evaluations import Best, Evaluation, last_evaluations, read_best
from gpt2dist.status.run_files import number

State = Literal["submitted", "running", "stale", "finished", "failed", "stopped"]

LEAST_PATIENCE = 60.0
"""Seconds without a sign of life after which, at the earliest, a run counts as silent."""
PATIENCE_IN_GAPS = 5
"""A run counts as silent after this many times its longest gap between log lines."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The newest checkpoint.

    Attributes:
        step: Optimizer steps done.
        age: Seconds since its completion.
    """

    step: int
    age: float


@dataclasses.dataclass(frozen=True)
class Status:
    """Status of a run. Unknown values are None.

    Attributes:
        run: The run directory.
        state: One of the states described in the module docstring.
        reason: Explanation of the state; empty if it needs none.
        step: Optimizer steps done.
        total_steps: Optimizer steps of the whole run.
        loss: Loss of the last log interval, in nats per token.
        perplexity: Perplexity of the last log interval.
        tokens_per_second: Throughput of the last log interval.
        mfu: Model FLOPs utilisation of the last log interval, as a fraction.
        seconds_left: Time to the step at which the run ends, at the pace since its last start.
        checkpoint: The newest checkpoint.
        best: The best checkpoint by `checkpoint.keep_best`.
        evaluations: The newest evaluation of each name, newest first.
        skipped_steps: Steps whose update was skipped.
        silent: Seconds since the last sign of life.
        start_count: Number of recorded starts.
        starts: The newest of them, or all if they were asked for, oldest first.
    """

    run: str
    state: State
    reason: str
    step: int | None
    total_steps: int | None
    loss: float | None
    perplexity: float | None
    tokens_per_second: float | None
    mfu: float | None
    seconds_left: float | None
    checkpoint: Checkpoint | None
    best: Best | None
    evaluations: list[Evaluation]
    skipped_steps: int | None
    silent: float | None
    start_count: int
    starts: list[starts.Start]


def read_status(run: Path, all_starts: bool = False) -> Status:
    """Read the status from a run directory, which may change at the same time.

    Args:
        run: The run directory.
        all_starts: Whether to read all starts, and not only the newest one.
    """
    now = time.time()
    held = lock.is_held(run)  # first, because a job writes its last files before it releases the lock
    recent = run_files.recent(run)
    last = recent.last
    saved = run_files.latest_checkpoint(run)
    settings, facts = run_files.read_settings(run), run_files.read_object(RunDirectory(run).environment)
    total = _integer(facts.get("total_steps")) or _integer(settings.get("schedule", {}).get("total_steps"))
    step = max(([last["step"]] if last else []) + ([saved[0]] if saved else []), default=None)

    start = _start(run)
    times = [each for each in recent.times if each and each >= (start or 0)]
    signs = [*times[-1:], *([saved[1]] if saved else []), *([start] if start else [])]
    silent = max(0.0, now - max(signs)) if signs else None
    stop = _integer(settings.get("run", {}).get("stop_after_steps"))
    ending = _ending(run, saved[0] if saved else None, total, stop)
    waiting = None if held else _waiting(run, start, now)
    state, reason = waiting or _judge(run, held, ending, silent, _patience(times, settings.get("run", {})))
    reason = "; ".join(filter(None, (reason, run_files.failed_call(run, settings))))
    goal = min(filter(None, (total, stop)), default=None)
    started = starts.numbers(run)
    return Status(
        run=str(run),
        state=state,
        reason=reason,
        step=step,
        total_steps=total,
        loss=number(last.get(TRAINED)),
        perplexity=number(last.get("train/perplexity")),
        tokens_per_second=number(last.get("throughput/tokens_per_second")),
        mfu=number(last.get("throughput/mfu")),
        seconds_left=_seconds_left(recent, goal, start or 0, now) if state == "running" else None,
        checkpoint=Checkpoint(saved[0], max(0.0, now - saved[1])) if saved else None,
        best=read_best(run, settings.get("checkpoint", {}).get("keep_best")),
        evaluations=last_evaluations(run, step),
        skipped_steps=_integer(last.get("train/skipped_steps")),
        silent=silent,
        start_count=len(started),
        starts=[starts.read(run, each) for each in started[0 if all_starts else -1 :]],
    )


def _waiting(run: Path, start: float | None, now: float) -> tuple[State, str] | None:
    """Return the state and reason of a run whose last job has not started to train, else None."""
    job = run_files.last_submission(run)
    if job is None or job.time < (start or 0):
        return None
    ago = duration(max(0.0, now - job.time))
    return "submitted", f"{ago} ago, {job.scheduler} {job.jobs[0]}; its output will be in {job.directory}"


def _judge(
    run: Path, held: bool | None, ending: tuple[State, str] | None, silent: float | None, patience: float
) -> tuple[State, str]:
    """Return the state and its reason.

    Args:
        run: The run directory.
        held: Whether the lock is held; None if unknown.
        ending: State and reason that the files imply if no job is active.
        silent: Seconds since the last sign of life.
        patience: Seconds of silence that are normal.
    """
    owner, here = run_files.read_object(RunDirectory(run).lock), socket.gethostname()
    host, quiet = owner.get("host"), silent is None or silent > patience
    silence = f"no sign of life for {duration(silent)}" if silent is not None else "no sign of life"
    if held and host == here:
        return "running", silence if quiet else ""
    gone = {
        True: False,
        False: host in (here, None),  # locks may not be visible on other hosts
        None: quiet if host is None else host == here and not _is_alive(owner.get("pid")),
    }
    if not held and (ending or gone[held]):
        return ending or _killed(run)
    return ("stale", f"{silence}; look at {host or 'its host'}") if quiet else ("running", "")


def _ending(run: Path, saved: int | None, total: int | None, stop: int | None) -> tuple[State, str] | None:
    """Return how the last job ended, or None if its files do not show that.

    Args:
        run: The run directory.
        saved: Step of the newest checkpoint.
        total: Steps of the whole run.
        stop: `run.stop_after_steps`.
    """
    directory = RunDirectory(run)
    failure = run_files.read_object(directory.failed_marker)
    stopped = run_files.read_object(directory.stopped_marker)
    finished = run_files.read_object(directory.finished_marker)
    if saved is not None and total is not None and saved >= total and not stopped:
        return "finished", ""  # even if a later start was refused and left failed.json
    if finished and not stopped:
        return "finished", f"ended early: {finished.get('reason')}"
    if failure:
        reason = next(iter(str(failure.get("reason")).splitlines()), "")
        hint = f" ({end_markers.PEER_LOST})" if failure.get("kind") == PeerLostError.__name__ else ""
        return "failed", f"rank {failure.get('rank')}: {failure.get('kind')}: {reason}{hint}"
    if stopped:
        return "stopped", f"by {stopped.get('reason')}, with everything saved"
    if saved is not None and stop is not None and saved >= stop:
        return "stopped", f"by run.stop_after_steps={stop}, with everything saved"
    return None


def _killed(run: Path) -> tuple[State, str]:
    """Return the state and reason of a run that left no marker file."""
    if logs := run_files.hung_ranks(run):
        return "failed", f"hung for run.timeout_seconds; the stacks are in {logs[0]}"
    return "failed", "ended without a message: killed, perhaps out of memory, or its host went down"


def _is_alive(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:  # the process exists but belongs to another user
        return True
    except OSError:
        return False
    return True


def _start(run: Path) -> float | None:
    """Return when the last job started, in seconds since 1970: it then wrote its owner into the lock file."""
    try:
        return RunDirectory(run).lock.stat().st_mtime
    except OSError:
        return None


def _patience(times: list[float], settings: dict[str, Any]) -> float:
    """Return how many seconds without a sign of life are normal, by the gaps since the start.

    Before the second line, `run.timeout_seconds` counts, since a start may take long.
    """
    gaps = [after - before for before, after in itertools.pairwise(times)]
    if not gaps:
        return number(settings.get("timeout_seconds")) or 10 * LEAST_PATIENCE
    return max(LEAST_PATIENCE, PATIENCE_IN_GAPS * max(gaps))


def _seconds_left(recent: Recent, goal: int | None, start: float, now: float) -> float | None:
    """Return the seconds to the goal at the pace since the start, with evaluations and saves; None if unknown."""
    trained = [each for each in recent.trained if each[1] >= start]
    if not trained or goal is None:
        return None
    (first, began), (last, ended) = trained[0], trained[-1]
    pace = (ended - began) / (last - first) if last > first else number(recent.last.get("time/step"))
    return None if pace is None else max(0.0, (goal - last) * pace - (now - ended))


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def duration(seconds: float) -> str:
    """Format a duration in one or two units, such as "45 s", "3:20 min", "5:04 h" or "2 d 3 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    if whole < 48 * 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02} h"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
