"""Find the checkpoints of a run to score, including those that a training job has yet to write."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt2dist import json_files
from gpt2dist.checkpoint.naming import finished, step_of
from gpt2dist.distributed.world import World
from gpt2dist.evaluation.results import EvaluationResults
from gpt2dist.model.find_model import fingerprint
from gpt2dist.run.directory import RunDirectory

POLL_SECONDS = 2.0
PINNED = "scored-now"
"""Subdirectory of the results that holds the hard links."""


def checkpoints_to_score(
    record: EvaluationResults,
    world: World,
    watch: bool,
    on_wait: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[int, Path]]:
    """Yield the checkpoints of a run whose weights have no result yet, oldest first. Collective.

    Each is yielded as a directory of hard links, so that its files stay readable if the training job prunes it.
    The links are deleted when the next checkpoint is requested.

    Args:
        record: The results, to which the caller adds one for each checkpoint before it requests the next.
        world: This rank.
        watch: Whether to wait for more checkpoints until the run has done all its steps.
        on_wait: Called on rank 0 with the progress of the run when a wait starts, and again when that changes.
        sleep: Sleeps for the given number of seconds.

    Yields:
        The step and the directory.

    Raises:
        UserError: A result file of the record is invalid.
    """
    waiting = ""
    while True:
        # The state is read first, so that a checkpoint written in between is still found.
        state, found = world.on_main(lambda: (_state(record.run) if watch else "", _pin_next(record)))
        if found:
            try:
                yield found
                world.gather(None)  # slower ranks may still be reading it
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
    """Link the oldest checkpoint without a result; return None if all have one."""
    results = record.results()
    for checkpoint in finished(RunDirectory(record.run).checkpoints):
        step = step_of(checkpoint)
        # Skip a checkpoint that is pruned in the meantime.
        with contextlib.suppress(FileNotFoundError):
            if step not in results or results[step]["model"] != fingerprint(checkpoint):
                unpin(record)
                return step, _pin(checkpoint, record.directory / PINNED)
    unpin(record)  # links to part of a checkpoint that was pruned
    return None


def unpin(record: EvaluationResults) -> None:
    """Delete the links to the checkpoint that is, or was, being scored."""
    shutil.rmtree(record.directory / PINNED, ignore_errors=True)


def _pin(checkpoint: Path, place: Path) -> Path:
    """Link a checkpoint's files, except the optimizer's, into a new directory; copy those that cannot be linked.

    Raises:
        FileNotFoundError: The checkpoint was pruned or replaced in the meantime.
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
    if checkpoint.stat().st_ino != directory:  # another checkpoint now has this name
        raise FileNotFoundError(checkpoint)
    return place


def _state(run: Path) -> str:
    """Return the progress of a run, such as "step 10 of 20"; empty when all its steps are done."""
    steps = [step_of(path) for path in finished(RunDirectory(run).checkpoints)]
    total = None
    with contextlib.suppress(OSError, ValueError):  # missing, or damaged
        total = json_files.load(RunDirectory(run).environment).get("total_steps")
    if not isinstance(total, int):
        total = None
    if steps and total and steps[-1] >= total:
        return ""
    known = f"step {steps[-1]:,}" if steps else "no checkpoint yet"
    return f"{known} of {total:,}" if total else known
