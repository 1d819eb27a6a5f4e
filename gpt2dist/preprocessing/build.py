"""The directory where the work is done: who may work in it, and whether what lies there is this job's."""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io
from gpt2dist.corpus import Source
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.tasks import PLAN_VERSION, PreprocessingJob
from gpt2dist.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class JobFingerprint:
    """What makes two jobs the same: then one goes on where the other stopped.

    Attributes:
        plan: What the manifest will say of tokenizer, options and sources.
        listing: sources.jsonl, a line per file of the corpus.
    """

    plan: dict[str, Any]
    listing: str

    @classmethod
    def of(cls, job: PreprocessingJob, tokenizer: Tokenizer, sources: list[Source]) -> "JobFingerprint":
        """Of a job, whose corpus and tokenizer were found."""
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
        """In words, what the plan of the work in `directory` has otherwise; empty if nothing."""
        different = [
            f"--{name.replace('_', '-')} {there['options'].get(name)} there, {value} here"
            for name, value in self.plan["options"].items()
            if there["options"].get(name) != value
        ]
        if there["tokenizer_fingerprint"] != self.plan["tokenizer_fingerprint"]:
            different.append("another tokenizer")
        if there["sources"] != self.plan["sources"]:
            different.append(f"another corpus ({self._corpus_difference(directory / 'sources.jsonl')})")
        return "; ".join(different)

    def _corpus_difference(self, path: Path) -> str:
        there = {line["path"]: line for line in map(json.loads, path.read_text("utf-8").splitlines())}
        here = {line["path"]: line for line in map(json.loads, self.listing.splitlines())}
        kinds = {
            "new": [name for name in here if name not in there],
            "gone": [name for name in there if name not in here],
            "changed": [name for name in here if name in there and here[name] != there[name]],
        }
        return ", ".join(f"{len(names)} {kind}: {names[0]} …" for kind, names in kinds.items() if names)


def finished(job: PreprocessingJob, identity: JobFingerprint) -> Manifest | None:
    """The dataset in `job.output` where it is this job's; None where there is none yet.

    Raises:
        UserError: Something else is there.
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
            "Choose another --output, or remove this one to make it anew"
        )
    plan = job.build / "plan.json"
    if plan.is_file() and json.loads(plan.read_bytes()) == _versioned(identity):
        shutil.rmtree(job.build)  # left behind by a run that was killed at the very end
    return manifest


@contextmanager
def open_build(
    job: PreprocessingJob, identity: JobFingerprint, tokenizer: Tokenizer, shared: bool
) -> Iterator[None]:
    """Makes the build directory, or takes up the one of an interrupted run, and keeps other runs out of it.

    Args:
        job: The job.
        identity: What it is known by.
        tokenizer: Copied there for the workers.
        shared: Whether other processes that work on parts of the same job may be there too.

    Raises:
        UserError: Another process is at work there, or the work of another job lies there.
    """
    job.build.mkdir(parents=True, exist_ok=True)
    with open(job.build / "lock", "a") as lock:
        # Without locks, tasks are safe all the same.
        if atomic_io.try_lock(lock.fileno(), shared) is False:
            raise UserError(f"{job.build}: another gpt2dist preprocess is at work here; wait for it")
        _start(job, identity)
        if not shared:
            shutil.rmtree(job.running, ignore_errors=True)  # of runs that were killed
        job.running.mkdir(exist_ok=True)
        _copy_tokenizer(job, tokenizer)
        yield


def _start(job: PreprocessingJob, identity: JobFingerprint) -> None:
    """Writes down what the work here is, or compares it with what is written."""
    ours = ("lock", "sources.jsonl")
    others = [item for item in job.build.iterdir() if item.name not in ours and item.suffix != ".tmp"]
    # Looked for after the others: whoever makes those has made it before.
    if (job.build / "plan.json").is_file():
        check_plan(job, identity)
        return
    if not all(item.name.startswith("stdin-") for item in others):
        raise UserError(f"{job.build}: exists and is not the work of gpt2dist; choose another --output")
    atomic_io.write_text(job.build / "sources.jsonl", identity.listing)
    atomic_io.write_text(job.build / "plan.json", json.dumps(_versioned(identity)))


def check_plan(job: PreprocessingJob, identity: JobFingerprint) -> None:
    """Compares a job with the unfinished work in its build directory, if there is some.

    Raises:
        UserError: It is another job's.
    """
    path = job.build / "plan.json"
    if not path.is_file():
        return
    there = json.loads(path.read_bytes())
    different = identity.differences(there, job.build)
    if not different and there.get("version") != PLAN_VERSION:
        different = "another version of gpt2dist"
    if different:
        raise UserError(
            f"{job.build}: holds the unfinished work of another job: {different}. "
            f"Remove it (rm -r {job.build}) or choose another --output"
        )


def _versioned(identity: JobFingerprint) -> dict[str, Any]:
    return {"version": PLAN_VERSION, **identity.plan}


def _copy_tokenizer(job: PreprocessingJob, tokenizer: Tokenizer) -> None:
    """Puts the tokenizer there whole, even if several processes do it at once."""
    final = job.build / "tokenizer"
    if not final.exists():
        copy = job.build / f"tokenizer-{uuid.uuid4().hex[:12]}.tmp"
        tokenizer.save(copy)
        try:
            atomic_io.rename_directory(copy, final)
        except OSError:  # another was faster
            shutil.rmtree(copy)
