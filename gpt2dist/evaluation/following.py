"""Scoring the checkpoints of a run one after the other, also those that a training job has yet to write."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt2dist.checkpoint.naming import finished, step_of
from gpt2dist.distributed import World
from gpt2dist.evaluation.record import Record
from gpt2dist.model.locate import fingerprint

POLL_SECONDS = 2.0


def checkpoints_to_score(
    record: Record,
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
    """
    waiting = ""
    while True:
        found = world.from_main(_pin_next(record) if world.is_main else None)
        if found:
            try:
                yield found
            finally:
                if world.is_main:
                    shutil.rmtree(found[1], ignore_errors=True)
            waiting = ""
            continue
        state = world.from_main(_state(record.run) if world.is_main else None)
        if not watch or not state:
            return
        if world.is_main and state != waiting:
            on_wait(state)
        waiting = state
        sleep(POLL_SECONDS)


def _pin_next(record: Record) -> tuple[int, Path] | None:
    """Links the oldest checkpoint without a result; None where all have one."""
    results = record.results()
    for checkpoint in finished(record.run / "checkpoints"):
        step = step_of(checkpoint)
        # One that was pruned meanwhile is passed over.
        with contextlib.suppress(FileNotFoundError):
            if step not in results or results[step]["model"] != fingerprint(checkpoint):
                return step, _pin(checkpoint, record.directory / "scored-now")
    return None


def _pin(checkpoint: Path, place: Path) -> Path:
    """A directory with hard links to the files of a checkpoint's model; copies where there are no links."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for file in checkpoint.iterdir():
        if not file.name.startswith("optimizer-"):
            try:
                os.link(file, place / file.name)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(file, place / file.name)
    if not (place / "manifest.json").exists():  # pruned while it was listed
        raise FileNotFoundError(checkpoint)
    return place


def _state(run: Path) -> str:
    """What a run still waits for, in words; empty when all its steps are done."""
    steps = [step_of(path) for path in finished(run / "checkpoints")]
    facts = run / "environment.json"
    total = json.loads(facts.read_bytes()).get("total_steps") if facts.is_file() else None
    if steps and total and steps[-1] >= total:
        return ""
    known = f"step {steps[-1]:,}" if steps else "no checkpoint yet"
    return f"{known} of {total:,}" if total else known
