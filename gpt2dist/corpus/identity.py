"""Versions of local files by their content, from which a job recognises its corpus.

Times are not part of it: a copy, a checkout or `touch` changes them, and an edit may not. A small file is hashed
completely. Of a large file, evenly spaced blocks are hashed, the first and the last included, so starting a job
never reads more than about `MOST_BYTES`, plus 64 KiB a file.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from gpt2dist import atomic_io
from gpt2dist.corpus.documents import Source
from gpt2dist.corpus.storage import is_url
from gpt2dist.errors import UserError

MOST_BYTES = 4 << 30
"""Bytes to read of all files together."""
LEAST_OF_A_FILE, MOST_OF_A_FILE = 64 << 10, 64 << 20
"""Bounds on the bytes to read of a file; a file within the limit is read whole."""
BLOCKS = 64
"""Number of blocks to read of a file that is beyond the limit."""
THREADS = 8
"""Threads that read and hash; hashing releases the interpreter."""
TOGETHER = 64
"""Maximum files that a thread processes per call."""
SHOWN = 3


def with_versions(sources: Sequence[Source]) -> list[Source]:
    """Return the sources, with versions that identify the content of local files.

    Raises:
        UserError: A file cannot be read; the message names the first ones.
    """
    limit = _limit(sum(_is_local(source) for source in sources))
    found: list[Source | OSError] = []
    with ThreadPoolExecutor(THREADS) as threads:
        step = max(1, min(TOGETHER, len(sources) // (4 * THREADS)))
        parts = [sources[start : start + step] for start in range(0, len(sources), step)]
        for part in threads.map(lambda part: [_with_version(source, limit) for source in part], parts):
            found += part
    unreadable = [each for each in found if isinstance(each, OSError)]
    if unreadable:
        raise unreadable_paths((error.filename, error) for error in unreadable)
    return [each for each in found if isinstance(each, Source)]


def content_sha256(sources: Sequence[Source]) -> str:
    """Return a hash of a corpus, which does not depend on its directory."""
    names = relative_names([source.path for source in sources])
    lines = [
        [name, source.format, source.compression, source.size, source.version]
        for name, source in zip(names, sources, strict=True)
    ]
    return atomic_io.sha256_of_text(json.dumps(lines))


def relative_names(paths: Sequence[str]) -> list[str]:
    """Return absolute paths relative to the directory that contains them; other paths as they are."""
    if not paths or not all(path.startswith("/") for path in paths):
        return list(paths)
    root = os.path.commonpath([str(Path(path).parent) for path in paths])
    return [os.path.relpath(path, root) for path in paths]


def dated(sources: Iterable[Source]) -> list[Source]:
    """Return the sources with the versions that gpt2dist 0.1 recorded: times of modification."""
    return [
        replace(source, version=str(Path(source.path).stat().st_mtime_ns))
        if _is_local(source) and source.format != "datasets"
        else replace(source, version=source.version.partition(":")[0])
        for source in sources
    ]


def unreadable_paths(found: Iterable[tuple[object, OSError]]) -> UserError:
    """Build the error for files and directories that cannot be read."""
    names = [f"{path} ({error.strerror})" for path, error in found]
    listed = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
    return UserError(f"cannot be read: {listed}; make them readable, or name inputs without them")


def _is_local(source: Source) -> bool:
    return source.path.startswith("/") and not is_url(source.path)


def _limit(files: int) -> int:
    """Return the bytes to read of each file: a power of two, so that a few more files do not change it."""
    share = 1 << (MOST_BYTES // max(files, 1)).bit_length() - 1
    return min(max(share, LEAST_OF_A_FILE), MOST_OF_A_FILE)


def _with_version(source: Source, limit: int) -> Source | OSError:
    if not _is_local(source):
        return source
    try:
        if source.format != "datasets":
            return replace(source, version=_version(source.path, limit))
        files = [each for each in sorted(Path(source.path).iterdir()) if each.is_file()]
        content = [[each.name, _version(str(each), limit)] for each in files]
    except OSError as error:
        return error
    return replace(source, version=f"{source.version}:{atomic_io.sha256_of_text(json.dumps(content))}")


def _version(path: str, limit: int) -> str:
    status = os.stat(path)  # noqa: PTH116, faster for many files
    # No program can set ctime, so a file with an equal stamp was not modified.
    stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return _hash(path, limit, stamp)


@lru_cache(maxsize=1 << 20)
def _hash(path: str, limit: int, stamp: tuple[int, ...]) -> str:
    """Return the hash of a file's content, or of blocks of it. Each stamp is hashed once per process."""
    size = stamp[0]
    with open(path, "rb") as file:
        if size <= limit:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        digest, block = hashlib.sha256(), limit // BLOCKS
        for number in range(BLOCKS):
            file.seek((size - block) * number // (BLOCKS - 1))
            digest.update(file.read(block))
        return f"sampled-{limit}:{digest.hexdigest()}"
