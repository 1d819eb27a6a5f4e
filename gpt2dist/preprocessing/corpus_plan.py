"""The corpus of a job: listed once, cut into tasks, and stored in the build directory for all of its processes.

    OUTPUT.partial/worklist/REQUEST/corpus.jsonl   the sources and their pieces; see pieces.py
                                    done.json      the facts of the listing, and where each task begins

REQUEST is a hash of what was asked for: the inputs, and the options that select and cut files. The jobs of an
array ask for the same, so the first lists the corpus and the others use its list. It is a snapshot: files that
appear later are not read. A worker compares each source with it after reading, so that a file that changed stops
the job.
"""

import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io, json_files
from gpt2dist.corpus import Listing, Source, cut, list_corpus, spool
from gpt2dist.corpus.formats import HUB_PREFIX, require_format
from gpt2dist.corpus.identity import change_of
from gpt2dist.corpus.sources import refuse_encoding
from gpt2dist.corpus.storage import is_url
from gpt2dist.errors import UserError
from gpt2dist.preprocessing import tasks as planning
from gpt2dist.preprocessing.atomic_output import MARKER, attempt
from gpt2dist.preprocessing.job import STANDARD_INPUT, PreprocessingJob
from gpt2dist.preprocessing.pieces import StoredPieces, line, read_lines
from gpt2dist.preprocessing.tasks import PLAN_VERSION, Task, TaskBounds

FILE_NAME = "corpus.jsonl"
LOCK = "listing.lock"
"""The file in the build directory that a process locks while it lists the corpus for the others."""
POLL_SECONDS = 0.5
"""Seconds between two looks for the list that another process makes."""

OnInfo = Callable[[str], None]


@dataclass(frozen=True)
class CorpusPlan:
    """The stored sources of a corpus, and its tasks.

    Iterate over it to get the sources, which are read from the file.

    Attributes:
        path: The file of the sources and their pieces.
        facts: See `Listing`.
        tasks: The tasks, whose pieces are in the file.
    """

    path: Path
    facts: dict[str, Any]
    tasks: list[Task]

    def __iter__(self) -> Iterator[Source]:
        return (source for source, _, _ in read_lines(self.path))

    @classmethod
    def load(cls, job: PreprocessingJob) -> "CorpusPlan | None":
        """Return the corpus that a process of this job has stored; None if there is none, or it is damaged."""
        folder = _folder(job)
        try:
            content = json_files.load(folder / MARKER)
            facts, tasks, first = content["facts"], list[Task](), 0
            for number, task in enumerate(content["tasks"]):
                pieces = StoredPieces(folder / FILE_NAME, *map(int, task))
                tasks.append(Task(number, first, pieces))
                first += len(pieces)
            if (folder / FILE_NAME).stat().st_size != content["size"] or set(facts) != _FACTS:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(folder / FILE_NAME, facts, tasks)

    @property
    def described(self) -> str:
        """Description for a process that uses the list of another one."""
        listed = datetime.fromtimestamp(self.path.stat().st_mtime).isoformat(" ", "seconds")
        return f"the corpus was listed at {listed}: {self.facts['files']:,} files (later ones are not read)"

    @classmethod
    def store(cls, job: PreprocessingJob, listing: Listing) -> "CorpusPlan":
        """Cut a corpus into tasks, store it and return it. What is there already is used if it is the same.

        Raises:
            UserError: A source cannot be cut.
            RunError: The files cannot be written.
        """
        found = cls.load(job)
        if found is None or found.facts != listing.facts:
            shutil.rmtree(_folder(job), ignore_errors=True)
            with attempt(_folder(job), job.running) as folder:
                _write(folder, job, listing)
            found = cls.load(job)
        assert found is not None
        return found


_FACTS = {"files", "bytes", "listing_sha256", "content_sha256"}


def _folder(job: PreprocessingJob) -> Path:
    inputs = [
        name if is_url(name) or name.startswith(HUB_PREFIX) else str(Path(name).absolute()) for name in job.inputs
    ]
    limits = (planning.TASKS, planning.MIN_TASK_BYTES, planning.MAX_TASK_BYTES)
    request = [PLAN_VERSION, limits, inputs, job.suffixes, job.format, job.reading.encoding]
    return job.build / "worklist" / hashlib.sha256(json.dumps(request).encode()).hexdigest()[:16]


def _write(folder: Path, job: PreprocessingJob, listing: Listing) -> None:
    bounds, tasks, offset = TaskBounds(listing.facts["bytes"]), list[list[int]](), 0
    with open(folder / FILE_NAME, "wb") as file:
        for source, stamp in listing.stamped():
            pieces = cut(source, bounds.target, job.reading.encoding)
            for number, piece in enumerate(pieces):
                if bounds.begins(piece):
                    tasks.append([offset, number, 0, 0])
                tasks[-1][2] += 1
                tasks[-1][3] += piece.size
            offset += file.write((line(source, stamp, pieces) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
    content = {"facts": listing.facts, "size": offset, "tasks": tasks}
    atomic_io.write_text(folder / MARKER, json.dumps(content))


def count_tasks(job: PreprocessingJob, listing: Listing) -> int:
    """Return the number of tasks into which a corpus is cut."""
    bounds = TaskBounds(listing.facts["bytes"])
    pieces = (piece for source in listing for piece in cut(source, bounds.target, job.reading.encoding))
    return sum(map(bounds.begins, pieces))


# --- Listing ----------------------------------------------------------------------------------------------


def list_sources(job: PreprocessingJob, on_info: OnInfo = lambda text: None) -> Listing:
    """List the corpus of a job; copy standard input into the build directory.

    Raises:
        UserError: As for `corpus.list_corpus`.
    """
    if STANDARD_INPUT not in job.inputs:
        return _list(job, job.inputs, on_info)
    if len(job.inputs) > 1:
        raise UserError("-: standard input cannot be read together with other inputs; preprocess them separately")
    require_format(job.format)
    refuse_encoding([Source("-", job.format or "jsonl", "", 0, "")], job.reading.encoding)
    # The file is named by its content, so that different input cannot overwrite what unfinished work needs.
    job.build.mkdir(parents=True, exist_ok=True)
    source = spool(sys.stdin.buffer, job.build / f"stdin-{uuid.uuid4().hex[:12]}.tmp", job.format or "jsonl")
    path = job.build / f"stdin-{source.version[:16]}"
    Path(source.spool).replace(path)
    return Listing([replace(source, spool=str(path))])


def _list(job: PreprocessingJob, inputs: Sequence[str], on_info: OnInfo) -> Listing:
    own = (job.output, job.build, job.submissions)
    disk = next((each for each in job.output.parents if os.access(each, os.W_OK)), None)
    return list_corpus(inputs, job.suffixes, own, job.format, job.reading.encoding, on_info, disk)


def delete_spool(job: PreprocessingJob, sources: Iterable[Source]) -> None:
    """Delete the copy of standard input of a job whose dataset is already finished."""
    if STANDARD_INPUT not in job.inputs:
        return
    for source in sources:
        Path(source.spool).unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or deleted already
            job.build.rmdir()


def shared_corpus(
    job: PreprocessingJob, store: Callable[[], CorpusPlan], on_info: OnInfo = lambda text: None
) -> CorpusPlan:
    """Return the stored corpus of a job of which several processes need it: one stores it, the others wait.

    Args:
        job: The job, whose build directory exists.
        store: Lists and stores the corpus. If the file system has no locks, several processes may call it.
        on_info: Called if this process waits, and if it uses the list of another one.
    """
    waits = False
    while (found := CorpusPlan.load(job)) is None:
        with open(job.build / LOCK, "a") as lock:
            if atomic_io.try_lock(lock.fileno()) is not False:
                return CorpusPlan.load(job) or store()
        if not waits:
            on_info("another process lists the corpus; waiting for its list")
            waits = True
        time.sleep(POLL_SECONDS)
    on_info(found.described)
    return found


# --- Changes ----------------------------------------------------------------------------------------------


def require_unchanged(job: PreprocessingJob, task: Task) -> None:
    """Check that the local sources of a task are as they were when the corpus was listed.

    Raises:
        UserError: One has changed; the message names it.
    """
    if isinstance(task.pieces, StoredPieces):
        for source, stamp in task.pieces.sources():
            if reason := change_of(source, stamp):
                raise _changed(job, f"{source.path}: {reason}: ")


def require_unchanged_remote(job: PreprocessingJob, corpus: CorpusPlan) -> None:
    """List the inputs at URLs again, and check that they have not changed.

    Raises:
        UserError: One has changed; the message names it.
    """
    if not (urls := [name for name in job.inputs if is_url(name)]):
        return
    before = (source for source in corpus if is_url(source.path))
    now = _list(job, urls, lambda text: None)
    for one, other in zip_longest(before, now):
        if one != other:
            raise _changed(job, f"{(one or other).path}: ")


def _changed(job: PreprocessingJob, what: str) -> UserError:
    return UserError(
        f"{what}the corpus changed while it was read; remove the unfinished work (rm -r {job.build}) "
        "and run the command again when the files no longer change"
    )
