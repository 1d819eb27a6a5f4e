"""Scoring the checkpoints of a run one after the other, also those that a training job has yet to write."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt2dist.checkpoint.naming import finished, step_of
from gpt2dist.distributed.world import World
from gpt2dist.evaluation.results import EvaluationResults
from gpt2dist.model.find_model import fingerprint
from gpt2dist.run.directory import RunDirectory

POLL_SECONDS = 2.0
PINNED = "scored-now"
"""Where the links lie, in the directory of the record."""


def checkpoints_to_score(
    record: EvaluationResults,
    world: World,
    watch: bool,
    on_wait: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[int, Path]]:
    """The checkpoints of a run that have no result yet, oldest first. Collective.

    Each is handed out as a directory of hard links, so that a training job that prunes it meanwhile takes nothing
    away; the links are gone when the next one is asked for.

    Args:
        record: Where results are added between one checkpoint and the next.
        world: This rank.
        watch: Whether to wait for more until the run has done all its steps.
        on_wait: Told, on rank 0, what is waited for, once each time.
        sleep: Waits for so many seconds.

    Yields:
        The step and the directory.

    Raises:
        UserError: A file of the record is no result.
    """
    waiting = ""
    while True:
        # In this order: a checkpoint that comes in between is found all the same.
        state, found = world.on_main(lambda: (_state(record.run) if watch else "", _pin_next(record)))
        if found:
            try:
                yield found
                world.gather(None)  # slower ranks may still read it
            finally:
                if world.is_main:
                    unpin(record)
            waiting = ""
            continue
        if not state:
            return
        if world.is_main and state != waiting:
            on_wait(state)
        waiting = state
        sleep(POLL_SECONDS)


def _pin_next(record: EvaluationResults) -> tuple[int, Path] | None:
    """Links the oldest checkpoint without a result; None where all have one."""
    results = record.results()
    for checkpoint in finished(RunDirectory(record.run).checkpoints):
        step = step_of(checkpoint)
        # One that was pruned meanwhile is passed over.
        with contextlib.suppress(FileNotFoundError):
            if step not in results or results[step]["model"] != fingerprint(checkpoint):
                unpin(record)
                return step, _pin(checkpoint, record.directory / PINNED)
    unpin(record)  # what was linked of one that was pruned
    return None


def unpin(record: EvaluationResults) -> None:
    """Removes the links to the checkpoint that is, or was, being scored."""
    shutil.rmtree(record.directory / PINNED, ignore_errors=True)


def _pin(checkpoint: Path, place: Path) -> Path:
    """A directory with hard links to the files of a checkpoint's model; copies where there are no links.

    Raises:
        FileNotFoundError: The checkpoint was pruned, or replaced, meanwhile.
    """
    place.mkdir(parents=True)
    directory = checkpoint.stat().st_ino
    for file in checkpoint.iterdir():
        if not file.name.startswith("optimizer-"):
            try:
                os.link(file, place / file.name)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(file, place / file.name)
    if checkpoint.stat().st_ino != directory:  # another one has its name now
        raise FileNotFoundError(checkpoint)
    return place


def _state(run: Path) -> str:
    """What a run still waits for, in words; empty when all its steps are done."""
    steps = [step_of(path) for path in finished(RunDirectory(run).checkpoints)]
    total = None
    with contextlib.suppress(FileNotFoundError, ValueError):  # not there yet, or being written
        total = json.loads(RunDirectory(run).environment.read_bytes()).get("total_steps")
    if steps and total and steps[-1] >= total:
        return ""
    known = f"step {steps[-1]:,}" if steps else "no checkpoint yet"
    return f"{known} of {total:,}" if total else known
