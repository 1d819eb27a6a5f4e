"""Versions of local files by their content, from which a job recognises its corpus.

Times are not part of it: a copy, a checkout or `touch` changes them, and an edit may not. A small file is hashed
completely. Of a large file, evenly spaced blocks are hashed, the first and the last included, so starting a job
never reads more than about `MOST_BYTES`, plus 64 KiB a file.

A stamp is what the file system says about a file: size, times and inode. A file with an equal stamp was not
modified.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import islice
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
    together = max(1, min(TOGETHER, len(sources) // (4 * THREADS)))
    return [source for source, _ in versioned(sources, sum(map(is_local, sources)), together)]


def versioned(sources: Iterable[Source], files: int, together: int = TOGETHER) -> Iterator[tuple[Source, str]]:
    """Yield the sources with versions that identify the content of local files, and their stamps.

    It holds a few hundred sources at a time.

    Args:
        sources: The sources.
        files: How many of them are local.
        together: Files that a thread processes per call.

    Raises:
        UserError: After the last one: files cannot be read; the message names the first ones.
    """
    limit = _limit(files)
    unreadable: list[OSError] = []
    with ThreadPoolExecutor(THREADS) as threads:
        for part in _in_order(threads, iter(sources), limit, together):
            for found in part:
                if isinstance(found, OSError):
                    unreadable.append(found)
                elif not unreadable:
                    yield found
    if unreadable:
        raise unreadable_paths((error.filename, error) for error in unreadable)


_Versioned = tuple[Source, str] | OSError


def _in_order(
    threads: ThreadPoolExecutor, sources: Iterator[Source], limit: int, together: int
) -> Iterator[list[_Versioned]]:
    def version(part: list[Source]) -> list[_Versioned]:
        return [_with_version(source, limit) for source in part]

    pending: deque[Future[list[_Versioned]]] = deque()
    while part := list(islice(sources, together)):
        pending.append(threads.submit(version, part))
        if len(pending) > 4 * THREADS:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def change_of(source: Source, stamp: str) -> str:
    """Describe how a local source differs from its listing; return "" if its content is the same.

    Args:
        source: The source with its version, as listed.
        stamp: Its stamp, as listed. If it differs, the content decides: the inode may depend on the host.
    """
    if not is_local(source):
        return ""
    try:
        limit = int(stamp.partition(":")[0])
        if _text(limit, map(_stamp_of, _files_of(source))) == stamp:
            return ""
        now = _with_version(source, limit)
    except OSError as error:
        now = error
    if isinstance(now, OSError):
        return f"cannot be read ({now.strerror})"
    return "" if now[0].version == source.version else "its content is another"


class ContentHash:
    """Hash of a corpus that does not depend on its directory, computed one source at a time.

    Args:
        root: The directory of the corpus; see `CommonDirectory`.
    """

    def __init__(self, root: str | None):
        self._root, self._hash, self._separator = root, hashlib.sha256(b"["), b""

    def add(self, source: Source) -> None:
        """Add the next source."""
        name = relative_name(source.path, self._root)
        line = [name, source.format, source.compression, source.size, source.version]
        self._hash.update(self._separator + json.dumps(line).encode())
        self._separator = b", "

    def hexdigest(self) -> str:
        """Return the hash of all sources."""
        final = self._hash.copy()
        final.update(b"]")
        return final.hexdigest()


def content_sha256(sources: Sequence[Source]) -> str:
    """Return a hash of a corpus, which does not depend on its directory."""
    whole = ContentHash(common_directory(source.path for source in sources))
    for source in sources:
        whole.add(source)
    return whole.hexdigest()


class CommonDirectory:
    """The directory that contains all of the given paths, which are added one at a time.

    Attributes:
        path: The directory; None if there is no path, or one is not absolute.
    """

    def __init__(self) -> None:
        self.path: str | None = None
        self._last = ""
        self._all_absolute = True

    def add(self, path: str) -> None:
        """Add a path."""
        if not path.startswith("/"):
            self._all_absolute, self.path = False, None
        name = os.path.dirname(path)  # noqa: PTH120, faster for many files
        if self._all_absolute and name != self._last:
            self._last, parent = name, str(Path(path).parent)
            self.path = parent if self.path is None else os.path.commonpath([self.path, parent])


def common_directory(paths: Iterable[str]) -> str | None:
    """Return the directory that contains all paths; None if there are none, or one is not absolute."""
    common = CommonDirectory()
    for path in paths:
        common.add(path)
    return common.path


def relative_name(path: str, root: str | None) -> str:
    """Return a path relative to the directory that contains it; the path itself if `root` is None."""
    if root is None:
        return path
    prefix = root.rstrip("/") + "/"
    if path.startswith(prefix) and "//" not in path and "/." not in path:  # faster than relpath
        return path[len(prefix) :]
    return os.path.relpath(path, root)


def dated(sources: Iterable[Source]) -> Iterator[Source]:
    """Yield the sources with the versions that gpt2dist 0.1 recorded: times of modification."""
    for source in sources:
        if is_local(source) and source.format != "datasets":
            yield replace(source, version=str(Path(source.path).stat().st_mtime_ns))
        else:
            yield replace(source, version=source.version.partition(":")[0])


def unreadable_paths(found: Iterable[tuple[object, OSError]]) -> UserError:
    """Build the error for files and directories that cannot be read."""
    names = [f"{path} ({error.strerror})" for path, error in found]
    listed = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
    return UserError(f"cannot be read: {listed}; make them readable, or name inputs without them")


def is_local(source: Source) -> bool:
    """Return whether a source is a file or directory, rather than at a URL, on the hub or standard input."""
    return source.path.startswith("/") and not is_url(source.path)


def _limit(files: int) -> int:
    """Return the bytes to read of each file: a power of two, so that a few more files do not change it."""
    share = 1 << (MOST_BYTES // max(files, 1)).bit_length() - 1
    return min(max(share, LEAST_OF_A_FILE), MOST_OF_A_FILE)


def _with_version(source: Source, limit: int) -> _Versioned:
    if not is_local(source):
        return source, ""
    try:
        stamps = {path: _stamp_of(path) for path in _files_of(source)}
        hashes = [_hash(path, limit, stamp) for path, stamp in stamps.items()]
    except OSError as error:
        return error
    version = hashes[0] if source.format != "datasets" else _version_of_saved(source, [*stamps], hashes)
    return replace(source, version=version), _text(limit, stamps.values())


def _version_of_saved(source: Source, paths: list[str], hashes: list[str]) -> str:
    content = [[Path(path).name, version] for path, version in zip(paths, hashes, strict=True)]
    return f"{source.version.partition(':')[0]}:{atomic_io.sha256_of_text(json.dumps(content))}"


def _files_of(source: Source) -> list[str]:
    """Return the files of a local source: those of a saved dataset, or the file itself."""
    if source.format != "datasets":
        return [source.path]
    return [str(each) for each in sorted(Path(source.path).iterdir()) if each.is_file()]


def _stamp_of(path: str) -> tuple[int, ...]:
    status = os.stat(path)  # noqa: PTH116, faster for many files
    # No program can set ctime, so a file with an equal stamp was not modified.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _text(limit: int, stamps: Iterable[tuple[int, ...]]) -> str:
    """Return stamps as a text, which begins with the limit of the hashes."""
    return f"{limit}: " + ", ".join(" ".join(map(str, stamp)) for stamp in stamps)


@lru_cache(maxsize=1 << 14)
def _hash(path: str, limit: int, stamp: tuple[int, ...]) -> str:
    """Return the hash of a file's content, or of blocks of it. The latest ones are remembered."""
    size = stamp[0]
    with open(path, "rb") as file:
        if size <= limit:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        digest, block = hashlib.sha256(), limit // BLOCKS
        for number in range(BLOCKS):
            file.seek((size - block) * number // (BLOCKS - 1))
            digest.update(file.read(block))
        return f"sampled-{limit}:{digest.hexdigest()}"
