"""Save a run's checkpoints in the background from all ranks, commit each by a rename, and check them before use.

`parts` plans which rank writes what, and `snapshot` copies it to the host memory of that rank. Training pauses
for this snapshot. A thread of each rank then writes its files while training continues. When all ranks have
written, rank 0 writes the manifest and renames the directory. An interrupted save leaves a directory without a
valid name or manifest.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gpt2dist import atomic_io
from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.manifest import Records
from gpt2dist.checkpoint.naming import best_step, checkpoint_name, finished, step_of
from gpt2dist.checkpoint.parts import PART_BYTES, PartBytes, index, make_parts
from gpt2dist.checkpoint.restore import restore
from gpt2dist.checkpoint.retention import outdated
from gpt2dist.checkpoint.safetensors_io import write_tensors
from gpt2dist.checkpoint.shared_hashing import find_fault
from gpt2dist.checkpoint.snapshot import Snapshot
from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.checkpoint.whole_state import WholeState, saved_shape
from gpt2dist.distributed.world import World
from gpt2dist.errors import RunError
from gpt2dist.run.directory import BEST, LATEST, SAVED
from gpt2dist.run.latest import write_best, write_latest


class CommitListener(Protocol):
    """What learns of each complete checkpoint on rank 0, and may keep some from being deleted."""

    def committed(self, checkpoint: Path) -> None: ...  # noqa: D102
    def held(self, outdated: Sequence[int]) -> set[int]: ...  # noqa: D102


@dataclass(frozen=True)
class _Saving:
    """A checkpoint that is being written.

    Attributes:
        partial: Its directory.
        step: Its step.
        written: The future result of this rank's thread.
        best: Whether it is the best so far.
    """

    partial: Path
    step: int
    written: "Future[Records]"
    best: bool


class CheckpointStore:
    """The checkpoints of a run.

    Args:
        directory: `RUN/checkpoints`.
        world: This rank.
        keep_last: Number of newest checkpoints to keep.
        keep_every: Checkpoints at multiples of this many steps are kept forever; None keeps none.
        vocab_size: Rows of the embedding to save; the rows after them are padding.
        write_model_files: Writes config.json, the tokenizer and other small model files into a directory.
        listener: Told of each complete checkpoint, and asked which ones to keep for now.
        part_bytes: Limits of the sizes of the files of tensors.

    Attributes:
        write_seconds: Seconds for which this rank wrote its part of the last checkpoint.
    """

    def __init__(
        self,
        directory: Path,
        world: World,
        keep_last: int,
        keep_every: int | None,
        vocab_size: int,
        write_model_files: Callable[[Path], None],
        listener: CommitListener | None = None,
        part_bytes: PartBytes = PART_BYTES,
    ):
        self.directory = directory
        self.world = world
        self.keep_last = keep_last
        self.keep_every = keep_every
        self.vocab_size = vocab_size
        self.part_bytes = part_bytes
        self.write_seconds = 0.0
        self._write_model_files = write_model_files
        self._listener = listener
        self._saving: _Saving | None = None
        self._snapshot = Snapshot(world)

    def save(self, state: WholeState, trainer: TrainerState, best: bool = False) -> Path:
        """Write and commit a checkpoint, as `start` and `finish` do. Collective.

        Returns:
            The directory of the checkpoint.

        Raises:
            RunError: A rank could not write; earlier checkpoints are untouched.
        """
        self.start(state, trainer, best)
        path = self.finish()
        assert path
        return path

    def start(self, state: WholeState, trainer: TrainerState, best: bool = False) -> None:
        """Take a snapshot and start writing it in the background. Collective.

        A save that is still in progress is finished first.

        Args:
            state: The state to save.
            trainer: The trainer state to save.
            best: Whether this checkpoint is the best so far, which is kept until there is a better one.

        Raises:
            RunError: The previous save failed.
        """
        self.finish()
        shapes = {name: saved_shape(name, state.shape_of(name), self.vocab_size) for name in state.parameters}
        names = {name: state.state_names(name) for name in state.parameters}
        parts = make_parts(shapes, names, self.world.size, self.part_bytes)
        tensors = self._snapshot.take(state, parts)
        partial = self.directory / f"{checkpoint_name(trainer.step)}.tmp"

        def write() -> Records:
            began = time.monotonic()
            partial.mkdir(parents=True, exist_ok=True)
            files = {
                part.file: write_tensors(partial / part.file, {each.label: tensors[each] for each in part.pieces})
                for part in parts
                if part.rank == self.world.rank
            }
            if self.world.is_main:
                files |= self._write_once(partial, trainer, index(parts))
            self.write_seconds = time.monotonic() - began
            return files

        self._saving = _Saving(partial, trainer.step, _in_background(write), best)

    def finish_if_written(self) -> Path | None:
        """Commit the checkpoint that is being written, if all ranks have written their parts. Collective.

        Returns:
            Its directory; None if no checkpoint is being written or a part is unfinished.

        Raises:
            RunError: A rank could not write.
        """
        if self._saving and self.world.all(self._saving.written.done()):
            return self.finish()
        return None

    def finish(self) -> Path | None:
        """Wait for the checkpoint that is being written, and commit it. Collective.

        Returns:
            Its directory; None if no checkpoint was being written.

        Raises:
            RunError: A rank could not write; earlier checkpoints are untouched.
        """
        if not self._saving:
            return None
        saving, self._saving = self._saving, None
        files = self._all_or_none(saving, saving.written.result)
        self._all_or_none(saving, lambda: self._commit(saving, files))
        return self.directory / checkpoint_name(saving.step)

    def mark_best(self, step: int) -> None:
        """Name a checkpoint that was saved before as the best. Collective."""
        self.world.on_main(lambda: write_best(self.directory, checkpoint_name(step)))

    def has_any(self) -> bool:
        """Return whether there is a checkpoint, judging by names."""
        return bool(finished(self.directory))

    def newest(self) -> tuple[Path | None, list[str]]:
        """Return the newest valid checkpoint, if any, and the faults of newer ones. Collective."""
        rejected_checkpoints: list[str] = []
        for name in reversed(self.world.on_main(lambda: [path.name for path in finished(self.directory)])):
            fault = self.fault(self.directory / name)
            if not fault:
                return self.directory / name, rejected_checkpoints
            rejected_checkpoints.append(f"{name}: {fault}")
        return None, rejected_checkpoints

    def fault(self, path: Path) -> str:
        """Return the fault of a checkpoint; empty if it is valid. Collective: the ranks share the hashing."""
        return find_fault(path, self.world)

    def load(self, path: Path, state: WholeState, other_optimizer: bool = False) -> TrainerState:
        """Restore the whole state from a valid checkpoint. Collective.

        Args:
            path: The checkpoint.
            state: The state to set.
            other_optimizer: Whether to accept the state of another optimizer. A group of parameters whose state
                the checkpoint lacks, or counts from different updates, then starts from zero.

        Returns:
            The trainer state, in which `restarted` has the parameters that start from zero.

        Raises:
            UserError: The checkpoint has other tensors than the model and its optimizer, or other shapes.
        """
        return restore(path, state, self.world, self.vocab_size, other_optimizer)

    def prune(self, saved: int) -> None:
        """Delete the outdated checkpoints, given the step of the newest one. Call on rank 0 only."""
        existing = {step_of(path): path for path in finished(self.directory)}
        steps = outdated(existing, saved, self.keep_last, self.keep_every, best_step(self.directory))
        held = self._listener.held(steps) if self._listener else set()
        for step in steps:
            if step not in held:
                with contextlib.suppress(OSError):
                    _remove(existing[step])

    def remove_leftovers(self) -> None:
        """Delete leftovers of interrupted saves. Call on rank 0 only, when no other job can be saving here."""
        for path in self.directory.glob("step-*.tmp"):
            shutil.rmtree(path, ignore_errors=True)
        for name in (LATEST, BEST):
            for path in self.directory.glob(f"{name}.*.tmp"):
                path.unlink(missing_ok=True)

    def _write_once(self, partial: Path, trainer: TrainerState, weights: dict[str, Any]) -> Records:
        """Write the files that rank 0 writes for all: configuration, tokenizer, index and trainer state."""
        # A separate directory holds exactly these files, while the other ranks write into `partial`.
        staging = partial / "once"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        self._write_model_files(staging)
        atomic_io.write_json(staging / "model.safetensors.index.json", weights)
        trainer.write(staging)
        files = {}
        for path in sorted(staging.iterdir()):
            files[path.name] = manifest.seal(path)
            path.replace(partial / path.name)
        staging.rmdir()
        return files

    def _commit(self, saving: _Saving, files: Records) -> Records:
        """Make a written checkpoint valid: write the manifest, rename, then update `latest`. Only rank 0 acts."""
        if not self.world.is_main:
            return {}
        partial, final = saving.partial, self.directory / checkpoint_name(saving.step)
        manifest.write(partial, files)
        if final.exists():  # invalid, or from a continuation that was abandoned
            _remove(final)
        atomic_io.rename_directory(partial, final)
        write_latest(self.directory, final.name)
        if saving.best:
            write_best(self.directory, final.name)
        with contextlib.suppress(OSError), (self.directory / SAVED).open("a", encoding="utf-8") as file:
            file.write(final.name + "\n")  # tells `evaluate --watch` what it missed
        if self._listener:
            self._listener.committed(final)
        self.prune(saving.step)
        return {}

    def _all_or_none(self, saving: _Saving, work: Callable[[], Records]) -> Records:
        """Do this rank's share of a phase of saving, and wait for the other ranks. Collective.

        Returns:
            The merged records of all ranks.

        Raises:
            RunError: A rank failed. All ranks raise it, since the others would wait for that rank forever.
        """
        done, error = {}, ""
        try:
            done = work()
        except Exception as problem:
            error = f"rank {self.world.rank}: {type(problem).__name__}: {problem}"
        reports = self.world.gather((done, error))
        errors = [text for _, text in reports if text]
        if errors:
            if self.world.is_main:
                shutil.rmtree(saving.partial, ignore_errors=True)
            raise RunError(
                f"saving {checkpoint_name(saving.step)} failed: {'; '.join(errors)}; free disk space or repair "
                f"{self.directory}, and start again: the run resumes from the newest complete checkpoint there"
            )
        return {name: record for part, _ in reports for name, record in part.items()}


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint. Rename it first, so that a reader never sees a partial checkpoint."""
    leftover = checkpoint.with_name(f"{checkpoint.name}.old.tmp")
    shutil.rmtree(leftover, ignore_errors=True)
    checkpoint.rename(leftover)
    shutil.rmtree(leftover, ignore_errors=True)


def _in_background(work: Callable[[], Records]) -> "Future[Records]":
    """Run `work` in a daemon thread, which does not keep an exiting process alive."""
    future: Future[Records] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised again by `Future.result`
            future.set_exception(error)

    threading.Thread(target=run, name="gpt2dist-save", daemon=True).start()
    return future
