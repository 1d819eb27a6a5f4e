"""Find the checkpoints of a run to score, including those that a training job has yet to write."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt2dist import json_files
from gpt2dist.checkpoint.naming import finished, step_of
from gpt2dist.distributed.world import World
from gpt2dist.evaluation.pins import Pins
from gpt2dist.evaluation.results import Scored
from gpt2dist.run.directory import RunDirectory

POLL_SECONDS = 2.0
LINK_SECONDS = 0.25
"""Seconds between two looks for checkpoints to link while another is scored."""


def checkpoints_to_score(
    record: Scored,
    world: World,
    watch: bool,
    on_wait: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    on_note: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[int, Path]]:
    """Yield the checkpoints of a run whose weights have no result yet, oldest first. Collective.

    Each is yielded as a directory of hard links, so that its files stay readable if the training job prunes it.
    While one is scored, a thread links those that appear. The links are deleted when the next one is requested.

    Args:
        record: The results, to which the caller adds one for each checkpoint before it requests the next.
        world: This rank.
        watch: Whether to wait for more checkpoints until the run has done all its steps.
        on_wait: Called on rank 0 with the progress of the run when a wait starts, and again when that changes.
        sleep: Sleeps for the given number of seconds.
        on_note: Called on rank 0 with a line of text if checkpoints cannot be linked.

    Yields:
        The step and the directory.

    Raises:
        UserError: A result file of the record is invalid.
    """
    waiting = ""
    pins = Pins(record, on_note)
    with contextlib.ExitStack() as ending:
        if world.is_main:
            ending.callback(pins.close)
            ending.enter_context(_linking(pins, watch))
        while True:
            # The state is read first, so that a checkpoint written in between is still found.
            state, found = world.on_main(lambda: (_state(record.run) if watch else "", pins.next()))
            if found:
                try:
                    yield found
                    world.all(True)  # slower ranks may still be reading it
                finally:
                    if world.is_main:
                        pins.release()
                waiting = ""
                continue
            if not state:
                return
            if world.is_main and state != waiting:
                on_wait(state)
            waiting = state
            sleep(POLL_SECONDS)


@contextlib.contextmanager
def _linking(pins: Pins, enabled: bool) -> Iterator[None]:
    """Link new checkpoints in a thread."""
    ended = threading.Event()

    def link() -> None:
        while not ended.wait(LINK_SECONDS):
            with contextlib.suppress(Exception):  # `Pins.next` raises it again in the main thread
                pins.update()

    thread = threading.Thread(target=link, name="gpt2dist-pins", daemon=True)
    if enabled:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if enabled:
            thread.join()


def _state(run: Path) -> str:
    """Return the progress of a run, such as "step 10 of 20"; empty when it is finished."""
    if RunDirectory(run).finished_marker.exists():  # by `evaluation.patience`
        return ""
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
