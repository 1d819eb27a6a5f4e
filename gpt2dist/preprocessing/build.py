"""The build directory of a job: locking, and checks that its content belongs to the job."""

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io, json_files
from gpt2dist.corpus import Reading, Source, content_sha256, dated, relative_names
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.errors import UserError
from gpt2dist.output_paths import check_new_directory
from gpt2dist.preprocessing.tasks import PLAN_VERSION, PreprocessingJob
from gpt2dist.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class JobFingerprint:
    """Identity of a job: a run resumes the unfinished work of a job with the same fingerprint.

    Attributes:
        plan: The manifest entries for tokenizer, options and sources.
        listing: The content of sources.jsonl, one line per source of the corpus.
        sources: The sources.
    """

    plan: dict[str, Any]
    listing: str
    sources: tuple[Source, ...]

    @classmethod
    def of(cls, job: PreprocessingJob, tokenizer: Tokenizer, sources: list[Source]) -> "JobFingerprint":
        """Return the fingerprint of a job with this tokenizer and these sources."""
        listing = _listing(sources)
        plan = {
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "options": job.options,
            "sources": {
                "files": len(sources),
                "bytes": sum(source.size for source in sources),
                "listing_sha256": atomic_io.sha256_of_text(listing),
                "content_sha256": content_sha256(sources),
            },
        }
        return cls(plan, listing, tuple(sources))

    def differences(self, there: dict[str, Any], directory: Path) -> str:
        """Describe how `there`, the plan found in `directory`, differs from this one; empty if it does not."""
        options = asdict(Reading()) | there["options"]  # older plans lack newer options
        different = [
            f"--{name.replace('_', '-')} {options.get(name)} there, {value} here"
            for name, value in self.plan["options"].items()
            if options.get(name) != value
        ]
        if there["tokenizer_fingerprint"] != self.plan["tokenizer_fingerprint"]:
            different.append("another tokenizer")
        if not self._same_corpus(there["sources"]):
            different.append(f"another corpus ({self._corpus_difference(directory / 'sources.jsonl')})")
        return "; ".join(different)

    def _same_corpus(self, there: dict[str, Any]) -> bool:
        """Compare contents, regardless of paths; for version 0.1, paths and modification times."""
        if "content_sha256" in there:
            return bool(there["content_sha256"] == self.plan["sources"]["content_sha256"])
        return there["listing_sha256"] in (
            self.plan["sources"]["listing_sha256"],  # sources that are not local
            atomic_io.sha256_of_text(_listing(dated(self.sources))),
        )

    def _corpus_difference(self, path: Path) -> str:
        try:
            old = [*json_files.require_lines(path, {"path": str}, "")]
        except UserError:  # the hashes differ anyway
            return f"{path} cannot be read"
        lines = [old, [json.loads(line) for line in self.listing.splitlines()]]
        names = [[line["path"] for line in side] for side in lines]
        if not set(names[0]) & set(names[1]):  # moved
            names = [relative_names(side) for side in names]
        there, here = (
            {name: {**line, "path": name} for name, line in zip(*side, strict=True)}
            for side in zip(names, lines, strict=True)
        )
        kinds = {
            "new": [name for name in here if name not in there],
            "gone": [name for name in there if name not in here],
            "changed": [name for name in here if name in there and here[name] != there[name]],
        }
        return ", ".join(f"{len(names)} {kind}: {names[0]} …" for kind, names in kinds.items() if names)


def check_places(job: PreprocessingJob) -> None:
    """Check, before any work, that the dataset can be built beside its final name and renamed to it.

    Raises:
        UserError: The output or the build directory cannot be used; the message says why.
    """
    check_new_directory(job.output, reuse=True)
    if _is_taken(job.output) and not (job.output / "manifest.json").is_file():
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


def _is_taken(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())


def finished(job: PreprocessingJob, identity: JobFingerprint) -> Manifest | None:
    """Return the manifest of this job's finished dataset, or None if `job.output` is missing or empty.

    Raises:
        UserError: `job.output` holds another dataset.
    """
    if not _is_taken(job.output):
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
def open_build(
    job: PreprocessingJob, identity: JobFingerprint, tokenizer: Tokenizer, shared: bool
) -> Iterator[None]:
    """Create the build directory, or reopen that of an interrupted run, and lock it against other runs.

    Args:
        job: The job.
        identity: The fingerprint of the job.
        tokenizer: Copied into the directory for the workers.
        shared: Whether other processes may work on other parts of the same job at the same time.

    Raises:
        UserError: Another process holds the lock, or the directory does not belong to this job.
    """
    job.build.mkdir(parents=True, exist_ok=True)
    with open(job.build / "lock", "a") as lock:
        # Tasks are safe even without locks.
        if atomic_io.try_lock(lock.fileno(), shared) is False:
            raise UserError(
                f"{job.build}: another gpt2dist preprocess is using this directory; wait for it to finish"
            )
        _start(job, identity)
        if not shared:
            shutil.rmtree(job.running, ignore_errors=True)  # leftovers of killed runs
        job.running.mkdir(exist_ok=True)
        _copy_tokenizer(job, tokenizer)
        yield


def _start(job: PreprocessingJob, identity: JobFingerprint) -> None:
    """Write the plan of the job, or compare the job with the plan that is there."""
    ours = ("lock", "sources.jsonl")
    others = [item for item in job.build.iterdir() if item.name not in ours and item.suffix != ".tmp"]
    # Checked after the listing above: every process writes plan.json before it creates the other entries.
    if (job.build / "plan.json").is_file():
        check_plan(job, identity)
        return
    if not all(item.name.startswith("stdin-") for item in others):
        raise UserError(f"{job.build}: exists and was not created by gpt2dist; choose another --output")
    atomic_io.write_text(job.build / "sources.jsonl", identity.listing)
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


def _listing(sources: Iterable[Source]) -> str:
    return "".join(json.dumps(asdict(source)) + "\n" for source in sources)


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
