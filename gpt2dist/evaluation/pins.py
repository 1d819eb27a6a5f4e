"""Hard links to the checkpoints that wait to be scored, so that a run which deletes them takes nothing away."""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.naming import checkpoint_name, finished, is_checkpoint_name, step_of
from gpt2dist.evaluation.results import Scored
from gpt2dist.model.find_model import fingerprint
from gpt2dist.run.directory import RunDirectory

LINKED = "linked"
"""Subdirectory of the results that holds the hard links."""
MOST = 32
"""Maximum number of checkpoints that are linked at the same time."""
ROOM = 4
"""A checkpoint is linked only while the disk has space for this many more, so that training can save."""


class Pins:
    """Links to the checkpoints of a run that have no result yet. Use it on rank 0.

    A link to a whole checkpoint is complete: it is made under another name and then renamed. Those of an earlier
    job that was killed are scored too.

    Args:
        record: The results; a checkpoint whose weights have one is not linked.
        on_note: Called with a line of text if checkpoints cannot be linked.
    """

    def __init__(self, record: Scored, on_note: Callable[[str], None]):
        self._record = record
        self._on_note = on_note
        self._home = record.directory / LINKED
        self._known: dict[str, tuple[int, int]] = {}  # checkpoint that has a result or a link → its identity
        self._noted: set[str] = set()
        self._active = ""
        self._lock = threading.RLock()
        self._begun = False

    def update(self) -> None:
        """Link the checkpoints that are new.

        Raises:
            UserError: A result file of the record, or the manifest of a checkpoint, is invalid.
        """
        with self._lock:
            if not self._begun:
                self._drop_scored()
                self._begun = True
            for checkpoint in finished(RunDirectory(self._record.run).checkpoints):
                with contextlib.suppress(FileNotFoundError):  # it was pruned in the meantime
                    self._consider(checkpoint)

    def next(self) -> tuple[int, Path] | None:
        """Return the oldest checkpoint to score and its directory; None if there is none."""
        with self._lock:
            self.update()
            waiting = self._linked()
            for checkpoint in () if waiting else finished(RunDirectory(self._record.run).checkpoints):
                # Here links are impossible or there is no room for many: pin only what is scored now.
                with contextlib.suppress(FileNotFoundError):
                    if self._is_unscored(checkpoint):
                        waiting = [_link(checkpoint, self._home, copy=True)]
                        break
            if not waiting:
                return None
            self._active = waiting[0].name
            return step_of(waiting[0]), waiting[0]

    def release(self) -> None:
        """Delete the links to the checkpoint that `next` returned last."""
        with self._lock:
            if self._active:
                shutil.rmtree(self._home / self._active, ignore_errors=True)
                self._active = ""

    def close(self) -> None:
        """Delete the links to checkpoints that still exist. Keep the others, which the next job scores."""
        with self._lock:
            if note := drop_needless(self._record):
                self._on_note(note)

    def _consider(self, checkpoint: Path) -> None:
        identity = _identity(checkpoint)
        if self._known.get(checkpoint.name) == identity or checkpoint.name == self._active:
            return
        if self._is_unscored(checkpoint):
            if len(self._linked()) >= MOST or not _has_room(checkpoint):
                self._note(f"no more than {MOST} checkpoints are linked, and none while the disk is nearly full")
                return
            try:
                _link(checkpoint, self._home, copy=False)
            except FileNotFoundError:
                raise
            except OSError as error:
                self._note(f"hard links are impossible here ({error.strerror or error})")
                return
        self._known[checkpoint.name] = identity

    def _is_unscored(self, checkpoint: Path) -> bool:
        result = self._record.results().get(step_of(checkpoint))
        return result is None or result["model"] != fingerprint(checkpoint)

    def _drop_scored(self) -> None:
        """Delete the links that a killed job left of weights that have a result."""
        for path in self._linked():
            if not self._is_unscored(path):
                shutil.rmtree(path, ignore_errors=True)

    def _linked(self) -> list[Path]:
        return sorted((path for path in self._home.glob("step-*") if is_checkpoint_name(path.name)), key=step_of)

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._on_note(f"{text}: checkpoints that the run deletes before their turn will be missing")


def drop_needless(record: Scored) -> str:
    """Delete the links to checkpoints that still exist or have a result when a job ends.

    Returns:
        A line of text about the links that remain for the next job; empty if none do.
    """
    home, left = record.directory / LINKED, 0
    for path in home.glob("step-*"):
        if path.suffix == ".tmp" or (RunDirectory(record.run).checkpoints / path.name).exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            left += 1
    with contextlib.suppress(OSError):  # not empty
        home.rmdir()
    waiting = "1 checkpoint" if left == 1 else f"{left} checkpoints"
    what = (
        f"{home} still holds {waiting} that the run has deleted; start the command again to score what it holds"
    )
    return f"{what}, or remove that directory" if left else ""


def saved_count(run: Path) -> int:
    """Return how many checkpoints a run has completed so far."""
    return len(_saved(run))


def missing(record: Scored, since: int) -> list[int]:
    """Return the steps of the checkpoints that a run completed after its first `since` that have no result."""
    return sorted(set(_saved(record.run)[since:]) - record.results().keys())


def _saved(run: Path) -> list[int]:
    try:
        names = RunDirectory(run).saved.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # a run of an earlier version
        return []
    return [step_of(Path(name)) for name in names if is_checkpoint_name(name)]


def _identity(checkpoint: Path) -> tuple[int, int]:
    """Return what differs if another checkpoint gets the name of this one: its manifest's inode and time."""
    status = (checkpoint / manifest.NAME).stat()
    return status.st_ino, status.st_mtime_ns


def _has_room(checkpoint: Path) -> bool:
    size = sum(file.stat().st_size for file in checkpoint.iterdir())
    return shutil.disk_usage(checkpoint).free >= ROOM * size


def _link(checkpoint: Path, home: Path, copy: bool) -> Path:
    """Link a checkpoint's files, except the optimizer's, into a directory of `home`; replace an older one.

    Args:
        checkpoint: The checkpoint.
        home: Parent of the new directory, which has the name of the checkpoint.
        copy: Whether to copy the files that cannot be linked.

    Raises:
        FileNotFoundError: The checkpoint was pruned or replaced in the meantime.
        OSError: A file cannot be linked.
    """
    place = home / checkpoint_name(step_of(checkpoint))
    partial = place.with_name(f"{place.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        identity = _identity(checkpoint)
        for file in checkpoint.iterdir():
            if file.name.startswith("optimizer-"):
                continue
            try:
                os.link(file, partial / file.name)
            except OSError as error:
                if isinstance(error, FileNotFoundError) or not copy:
                    raise
                shutil.copyfile(file, partial / file.name)
        if _identity(checkpoint) != identity:  # another checkpoint now has this name
            raise FileNotFoundError(checkpoint)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            home.rmdir()
        raise
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)
    return place
