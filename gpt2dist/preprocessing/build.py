"""The build directory of a job: locking, and checks that its content belongs to the job."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io, json_files
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.errors import UserError
from gpt2dist.output_paths import check_new_directory
from gpt2dist.preprocessing.corpus_plan import LOCK
from gpt2dist.preprocessing.fingerprint import JobFingerprint
from gpt2dist.preprocessing.job import PreprocessingJob
from gpt2dist.preprocessing.tasks import PLAN_VERSION
from gpt2dist.tokenizer.tokenizer import Tokenizer


def check_places(job: PreprocessingJob) -> None:
    """Check, before any work, that the dataset can be built beside its final name and renamed to it.

    Raises:
        UserError: The output or the build directory cannot be used; the message says why.
    """
    check_new_directory(job.output, reuse=True)
    if is_taken(job.output) and not (job.output / "manifest.json").is_file():
        raise UserError(f"{job.output}: exists and is not a dataset directory; choose another --output")
    if not os.path.lexists(job.build):
        return
    if not job.build.is_dir():
        raise UserError(
            f"{job.build}: not a directory, but the unfinished work needs one here; remove it, or choose "
            "another --output"
        )
    if job.build.stat().st_dev != job.output.parent.stat().st_dev:
        raise UserError(
            f"{job.build}: is on another disk than {job.output}, so it cannot be renamed to it; "
            "remove this link or mount, and name an --output on that disk (the output itself may be a link to it)"
        )


def is_taken(directory: Path) -> bool:
    """Return whether a directory exists and is not empty."""
    return directory.is_dir() and any(directory.iterdir())


def finished(job: PreprocessingJob, identity: JobFingerprint) -> Manifest | None:
    """Return the manifest of this job's finished dataset, or None if `job.output` is missing or empty.

    Raises:
        UserError: `job.output` holds another dataset.
    """
    if not is_taken(job.output):
        return None
    manifest = Manifest.load(job.output)
    different = identity.differences({name: getattr(manifest, name) for name in identity.plan}, job.output)
    if different:
        raise UserError(
            f"{job.output}: holds another dataset: {different}. "
            "Choose another --output, or remove this one to rebuild it"
        )
    plan = job.build / "plan.json"
    if _holds(plan, identity, job):
        # A run was killed after renaming the dataset, before deleting this; or it is deleting this now.
        with open(job.build / "lock", "a") as lock:
            if atomic_io.try_lock(lock.fileno()) is not False:
                shutil.rmtree(job.build, ignore_errors=True)
    return manifest


@contextmanager
def lock_build(job: PreprocessingJob, shared: bool) -> Iterator[None]:
    """Create the build directory, unless an interrupted run left one, and lock it against other runs.

    Args:
        job: The job.
        shared: Whether other processes may work on other parts of the same job at the same time.

    Raises:
        UserError: Another process holds the lock.
    """
    job.build.mkdir(parents=True, exist_ok=True)
    with open(job.build / "lock", "a") as lock:
        # Tasks are safe even without locks.
        if atomic_io.try_lock(lock.fileno(), shared) is False:
            raise UserError(
                f"{job.build}: another gpt2dist preprocess is using this directory; wait for it to finish"
            )
        try:
            yield
        except BaseException:
            if not (job.build / "plan.json").exists() and atomic_io.try_lock(lock.fileno()):
                _remove_unstarted(job)
            raise


def start_build(job: PreprocessingJob, identity: JobFingerprint, tokenizer: Tokenizer, shared: bool) -> None:
    """Write the plan of a job into its locked build directory, or check that it is the plan that is there.

    Args:
        job: The job.
        identity: The fingerprint of the job.
        tokenizer: Copied into the directory for the workers.
        shared: As for `lock_build`.

    Raises:
        UserError: The directory does not belong to this job.
    """
    _start(job, identity)
    if not shared:
        shutil.rmtree(job.running, ignore_errors=True)  # leftovers of killed runs
    job.running.mkdir(exist_ok=True)
    _copy_tokenizer(job, tokenizer)


def _remove_unstarted(job: PreprocessingJob) -> None:
    """Remove a build directory in which no job was started, unless something else is in it."""
    with suppress(OSError):  # it is removed already
        if all(item.name in ("lock", LOCK) for item in job.build.iterdir()):
            shutil.rmtree(job.build, ignore_errors=True)


def _start(job: PreprocessingJob, identity: JobFingerprint) -> None:
    """Write the plan of the job, or compare the job with the plan that is there."""
    ours = ("lock", LOCK, "sources.jsonl")
    others = [item for item in job.build.iterdir() if item.name not in ours and item.suffix != ".tmp"]
    # Checked after the listing above: every process writes plan.json before it creates the other entries.
    if (job.build / "plan.json").is_file():
        check_plan(job, identity)
        return
    if not all(item.name.startswith("stdin-") for item in others):
        raise UserError(f"{job.build}: exists and was not created by gpt2dist; choose another --output")
    atomic_io.write_lines(job.build / "sources.jsonl", identity.lines())
    atomic_io.write_text(job.build / "plan.json", json.dumps(_versioned(identity)))


def check_plan(job: PreprocessingJob, identity: JobFingerprint) -> None:
    """Compare a job with the unfinished work in its build directory, if any.

    Raises:
        UserError: The unfinished work belongs to another job.
    """
    path = job.build / "plan.json"
    if not path.exists():
        return
    way_out = f"remove the unfinished work (rm -r {job.build}) and run the command again"
    there = json_files.require(path, way_out)
    kinds = {"options": dict, "sources": dict, "tokenizer_fingerprint": str}
    if not all(isinstance(there.get(key), kind) for key, kind in kinds.items()):
        raise UserError(f"{path}: lacks one of {', '.join(kinds)}; {way_out}")
    different = identity.differences(there, job.build)
    if not different and there.get("version") != PLAN_VERSION:
        different = "another version of gpt2dist"
    if different:
        raise UserError(
            f"{job.build}: holds the unfinished work of another job: {different}. "
            f"Remove it (rm -r {job.build}) or choose another --output"
        )


def _holds(plan: Path, identity: JobFingerprint, job: PreprocessingJob) -> bool:
    try:
        return not identity.differences(json_files.load(plan), job.build)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or not ours
        return False


def _versioned(identity: JobFingerprint) -> dict[str, Any]:
    return {"version": PLAN_VERSION, **identity.plan}


def _copy_tokenizer(job: PreprocessingJob, tokenizer: Tokenizer) -> None:
    """Copy the tokenizer atomically, since several processes may do so at the same time."""
    final = job.build / "tokenizer"
    if not final.exists():
        copy = job.build / f"tokenizer-{uuid.uuid4().hex[:12]}.tmp"
        tokenizer.save(copy)
        try:
            atomic_io.rename_directory(copy, final)
        except OSError:  # another process was faster
            shutil.rmtree(copy)
