"""Call `checkpoint.on_commit` for each complete checkpoint, in a thread of rank 0. Does not import torch.

The calls come in the order of the steps, one at a time, and training does not wait for them. A checkpoint is not
deleted during its call. Calls are recorded, and the next start repeats those that were cut off. So the newest
checkpoint always gets its call, and a checkpoint may get more than one.
"""

import inspect
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2dist.checkpoint.naming import checkpoint_name, finished, step_of
from gpt2dist.monitoring.logs import logger
from gpt2dist.registry import Registry
from gpt2dist.run import commit_calls
from gpt2dist.run.directory import RunDirectory

if TYPE_CHECKING:  # it imports torch, but the preflight imports the function before torch
    from gpt2dist.distributed.world import World

TRIES = 3
"""Maximum number of calls for one checkpoint in one start of the run."""
MOST_HELD = 2
"""Maximum number of outdated checkpoints that are kept for a call: one that is being made, and one that waits."""
WAIT_SECONDS = 1.0
LINE_SECONDS = 60.0
"""Seconds between two lines while the end of the run waits."""


class _AnyFunction:
    """A function, of which the registry requires no attribute."""


ON_COMMIT: Registry[Callable[[Path, int], object]] = Registry(
    "on_commit function", "gpt2dist.on_commit", {}, _AnyFunction
)


def find_function(name: str) -> Callable[[Path, int], object]:
    """Import the function of `checkpoint.on_commit`.

    Raises:
        ValueError: It cannot be imported, or not be called with a checkpoint and a step; the message has a fix.
    """
    function = ON_COMMIT.get(name)
    try:
        inspect.signature(function).bind(Path(), 0)
    except TypeError as error:
        raise ValueError(
            f"{name} cannot be called with a checkpoint and a step ({error}); define it as "
            "def upload(checkpoint: Path, step: int)"
        ) from None
    except ValueError:  # a function in C, without a signature
        pass
    return function


class CommitCalls:
    """The calls of `checkpoint.on_commit`. Only rank 0 makes them.

    Args:
        name: Value of the key.
        run: The run directory.

    Attributes:
        name: Value of the key.
        failures: Number of calls that failed since the start.
    """

    def __init__(self, name: str, run: Path):
        self.name = name
        self.failures = 0
        self._function = find_function(name)
        self._run = RunDirectory(run)
        self._changed = threading.Condition()  # guards all that follows
        self._waiting: list[int] = []  # steps, ascending
        self._active: int | None = None
        self._failed: dict[int, str] = {}  # step → error of its last call
        self._tries: Counter[int] = Counter()
        self._manifests: dict[int, str] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        self._ending = False  # no further checkpoint will come

    def resume(self, resumed: int) -> None:
        """Take up the calls that earlier starts did not complete, up to the checkpoint resumed from."""
        known = commit_calls.states(self._run.path, self.name)
        recorded = {step for step, _ in known} | {resumed}
        with self._changed:
            for checkpoint in finished(self._run.checkpoints):
                step = step_of(checkpoint)
                if step > resumed or step not in recorded:
                    continue
                state = known.get((step, _identity(checkpoint)))
                if state in ("waiting", "failed") or (step == resumed and state != "done"):
                    self._add(checkpoint)

    def committed(self, checkpoint: Path) -> None:
        """Call the function for a new checkpoint, after those that wait or have failed."""
        with self._changed:
            self._retry()
            self._add(checkpoint)

    def held(self, outdated: Sequence[int]) -> set[int]:
        """Return which of the outdated checkpoints to keep: the one of the call, and the newest that waits.

        The others lose their call, so that a slow function cannot fill the disk.

        Args:
            outdated: Their steps, ascending.
        """
        with self._changed:
            again = {step for step in self._failed if self._tries[step] < TRIES}
            active = {step for step in outdated if step == self._active}
            due = [step for step in outdated if (step in self._waiting or step in again) and step not in active]
            held = active | set(due[-(MOST_HELD - len(active)) :])
            lost = [step for step in outdated if step not in held and (step in due or step in self._failed)]
            for step in lost:
                self._waiting = [each for each in self._waiting if each != step]
                self._failed.pop(step, None)
                self._record(step, "lost")
        for step in lost:
            logger.warning(
                "%s is deleted before %s succeeded with it: the calls take longer than the steps between "
                "checkpoints, or fail. Save less often, or raise checkpoint.keep_last",
                *(checkpoint_name(step), self.name),
            )
        return held

    def finish(self, world: "World", wait_until: Callable[[Callable[[], bool]], bool]) -> str:
        """Make the calls that wait, and failed ones again, and wait for them. Collective.

        Args:
            world: This rank.
            wait_until: Waits on all ranks until a function is true on rank 0; returns False if it gave up.

        Returns:
            What failed or was not waited for, in one line; empty if nothing did.
        """
        with self._changed:
            self._ending = True
            self._retry()
        begun = shown = time.monotonic()

        def is_idle() -> bool:
            nonlocal shown
            with self._changed:
                idle = self._changed.wait_for(self._is_idle, WAIT_SECONDS)
                active, more = self._active, len(self._waiting)
            now = time.monotonic()
            if not idle and active is not None and (shown == begun or now - shown >= LINE_SECONDS):
                shown = now
                logger.info(
                    "waiting for %s with %s%s, for %.0f s so far; everything is saved",
                    *(self.name, checkpoint_name(active), f" and {more} more" if more else "", now - begun),
                )
            return idle

        wait_until(is_idle)
        return str(world.from_main(self._unfinished()))

    def close(self) -> None:
        """Begin no further call. A call that is being made goes on until the process exits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _unfinished(self) -> str:
        with self._changed:
            parts = [f"{checkpoint_name(step)} ({error})" for step, error in sorted(self._failed.items())]
            cut = [step for step in (self._active, *self._waiting) if step is not None]
        parts += [f"{checkpoint_name(step)} (not finished)" for step in cut]
        return f"{self.name} failed with {', '.join(parts)}" if parts else ""

    def _is_idle(self) -> bool:
        return self._active is None and not self._waiting

    def _retry(self) -> None:
        """Let the failed checkpoints wait again, except those with too many failures."""
        again = {step for step in self._failed if self._tries[step] < TRIES}
        for step in again:
            del self._failed[step]
        self._waiting = sorted({*self._waiting, *again})
        self._begin()

    def _add(self, checkpoint: Path) -> None:
        step = step_of(checkpoint)
        self._manifests[step] = _identity(checkpoint)
        self._tries[step] = 0
        self._failed.pop(step, None)
        self._waiting = sorted({*self._waiting, step})
        self._record(step, "waiting")
        self._begin()

    def _begin(self) -> None:
        if self._waiting and not self._thread:
            self._thread = threading.Thread(target=self._work, name="gpt2dist-on-commit", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
                if self._closed:
                    return
                step = self._active = self._waiting.pop(0)
            begun = time.monotonic()
            try:
                self._function((self._run.checkpoints / checkpoint_name(step)).absolute(), step)
            except BaseException as error:  # SystemExit too: it would end this thread without a message
                self._end(step, error)
            else:
                self._end(step, None)
                # Only to the log of the rank.
                logging.getLogger("on_commit").info("step %d: done in %.1f s", step, time.monotonic() - begun)

    def _end(self, step: int, error: BaseException | None) -> None:
        """Record how a call ended, and report a failure."""
        text = ": ".join([type(error).__name__, *str(error).splitlines()[:1]]) if error else ""
        with self._changed:
            self._active = None
            self._tries[step] += 1
            last = self._ending or self._tries[step] >= TRIES
            if error:
                self.failures += 1
                self._failed[step] = text
            self._record(step, "failed" if error else "done", text)
            self._changed.notify_all()
        if error:
            logger.warning(
                "%s failed with %s (%s); the run continues, and the call is repeated %s. The traceback is in the "
                "log of the rank",
                *(self.name, checkpoint_name(step), text),
                "at the next start" if last else "with the next checkpoint",
            )
            logging.getLogger("on_commit").warning("step %d", step, exc_info=error)  # not to the terminal

    def _record(self, step: int, state: commit_calls.State, error: str = "") -> None:
        try:
            commit_calls.append(self._run.path, step, self._manifests[step], self.name, state, error)
        except OSError as problem:  # without the record, a resumed run makes the call again
            logging.getLogger("on_commit").warning("%s: %s", self._run.commit_calls, problem)


def _identity(checkpoint: Path) -> str:
    try:
        return commit_calls.identity(checkpoint)
    except OSError:
        return ""
