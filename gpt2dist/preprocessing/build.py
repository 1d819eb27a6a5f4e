"""The build directory of a job: locking, and checks that its content belongs to the job."""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io, json_files
from gpt2dist.corpus import Reading, Source
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.tasks import PLAN_VERSION, PreprocessingJob
from gpt2dist.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class JobFingerprint:
    """Identity of a job: a run resumes the unfinished work of a job with the same fingerprint.

    Attributes:
        plan: The manifest entries for tokenizer, options and sources.
        listing: The content of sources.jsonl, one line per source of the corpus.
    """

    plan: dict[str, Any]
    listing: str

    @classmethod
    def of(cls, job: PreprocessingJob, tokenizer: Tokenizer, sources: list[Source]) -> "JobFingerprint":
        """Return the fingerprint of a job with this tokenizer and these sources."""
        listing = "".join(json.dumps(asdict(source)) + "\n" for source in sources)
        plan = {
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "options": job.options,
            "sources": {
                "files": len(sources),
                "bytes": sum(source.size for source in sources),
                "listing_sha256": atomic_io.sha256_of_text(listing),
            },
        }
        return cls(plan, listing)

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
        if there["sources"] != self.plan["sources"]:
            different.append(f"another corpus ({self._corpus_difference(directory / 'sources.jsonl')})")
        return "; ".join(different)

    def _corpus_difference(self, path: Path) -> str:
        try:
            lines = [json_files.parse(line) for line in json_files.read_lines(path)]
        except (OSError, ValueError):  # the hashes differ anyway
            return f"{path} cannot be read"
        there = {line.get("path"): line for line in lines}
        here = {line["path"]: line for line in map(json.loads, self.listing.splitlines())}
        kinds = {
            "new": [name for name in here if name not in there],
            "gone": [name for name in there if name not in here],
            "changed": [name for name in here if name in there and here[name] != there[name]],
        }
        return ", ".join(f"{len(names)} {kind}: {names[0]} …" for kind, names in kinds.items() if names)


def finished(job: PreprocessingJob, identity: JobFingerprint) -> Manifest | None:
    """Return the manifest of this job's finished dataset, or None if `job.output` is missing or empty.

    Raises:
        UserError: `job.output` holds another dataset or something else.
    """
    if not job.output.exists() or (job.output.is_dir() and not any(job.output.iterdir())):
        return None
    if not (job.output / "manifest.json").is_file():
        raise UserError(f"{job.output}: exists and is not a dataset directory; choose another --output")
    manifest = Manifest.load(job.output)
    different = identity.differences({name: getattr(manifest, name) for name in identity.plan}, job.output)
    if different:
        raise UserError(
            f"{job.output}: holds another dataset: {different}. "
            "Choose another --output, or remove this one to make it again"
        )
    plan = job.build / "plan.json"
    if _holds(plan, identity):
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
        # Without locks, tasks are safe all the same.
        if atomic_io.try_lock(lock.fileno(), shared) is False:
            raise UserError(f"{job.build}: another gpt2dist preprocess is at work here; wait for it")
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
        raise UserError(f"{job.build}: exists and is not the work of gpt2dist; choose another --output")
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
        raise UserError(f"{path}: has not all of {', '.join(kinds)}; {way_out}")
    different = identity.differences(there, job.build)
    if not different and there.get("version") != PLAN_VERSION:
        different = "another version of gpt2dist"
    if different:
        raise UserError(
            f"{job.build}: holds the unfinished work of another job: {different}. "
            f"Remove it (rm -r {job.build}) or choose another --output"
        )


def _holds(plan: Path, identity: JobFingerprint) -> bool:
    try:
        return bool(json_files.load(plan) == _versioned(identity))
    except (OSError, ValueError):  # not there, or not ours
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
        except OSError:  # another was faster
            shutil.rmtree(copy)
