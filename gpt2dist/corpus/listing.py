"""The listing of a corpus: its sources, sorted by path. They are in a temporary file, not in memory."""

import heapq
import json
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io
from gpt2dist.corpus.documents import Source
from gpt2dist.corpus.identity import CommonDirectory, ContentHash, is_local, versioned
from gpt2dist.corpus.sources import Search, refuse_encoding

SORTED_TOGETHER = 1 << 15
"""Sources that are sorted in memory; the parts of a longer listing are merged from a file."""
BLOCK = 256
"""Records that are written and read together."""
IN_MEMORY = 1 << 20
"""Bytes of records up to which they stay in memory."""
SHOWN_EVERY = 100_000
"""Number of sources after which the progress of a listing is reported."""

Record = tuple[Any, ...]
OnInfo = Callable[[str], None]


class Listing:
    """The sources of a corpus with their versions and stamps, sorted by path and without duplicates.

    Iterate over it, any number of times, to get the sources.

    Args:
        sources: The sources in any order. Of those with the same path, the last is taken.
        directory: Where to put temporary files, which have no name and so disappear with the process. Their size
            is about 500 bytes a source.
        encoding: The encoding with which the sources will be read; see `refuse_encoding`.
        on_info: Called with the progress of a long listing.

    Attributes:
        facts: "files", "bytes", "listing_sha256" and "content_sha256", as in a manifest.

    Raises:
        UserError: The encoding cannot be used for a source, or local files cannot be read.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        directory: Path | None = None,
        encoding: str | None = None,
        on_info: OnInfo = lambda text: None,
    ):
        found, local, root = _Records(directory), 0, CommonDirectory()
        for source in _sorted(sources, directory, on_info):
            refuse_encoding([source], encoding)
            found.append(_record(source))
            local += is_local(source)
            root.add(source.path)
        self._records, size = _Records(directory), 0
        content, lines = ContentHash(root.path), atomic_io.TextHash()
        for source, stamp in versioned((Source(*record) for record in found), local):
            self._records.append((*_record(source), stamp))
            size += source.size
            content.add(source)
            lines.add(line(source) + "\n")
            _show(on_info, len(self._records), f"hashed {len(self._records):,} of {len(found):,} files")
        self.facts: dict[str, Any] = {
            "files": len(self._records),
            "bytes": size,
            "listing_sha256": lines.hexdigest(),
            "content_sha256": content.hexdigest(),
        }

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Source]:
        return (source for source, _ in self.stamped())

    def stamped(self) -> Iterator[tuple[Source, str]]:
        """Yield each source with its stamp; see `identity.change_of`."""
        for *source, stamp in self._records:
            yield Source(*source), stamp


def list_corpus(
    inputs: Sequence[str],
    suffixes: Sequence[str] | None = None,
    exclude: Sequence[Path] = (),
    format: str | None = None,
    encoding: str | None = None,
    on_info: OnInfo = lambda text: None,
    directory: Path | None = None,
) -> Listing:
    """Find the sources of a corpus, and identify their contents. The memory does not grow with their number.

    The arguments and the errors are those of `discover` and `Listing`.
    """
    search = Search(suffixes, exclude, format, encoding)
    listing = Listing(search.all(inputs), directory, encoding, on_info)
    search.report(on_info)
    return listing


def line(source: Source) -> str:
    """Return the line of a source in sources.jsonl."""
    return json.dumps(vars(source))


def _record(source: Source) -> Record:
    return tuple(vars(source).values())


def _show(on_info: OnInfo, number: int, text: str) -> None:
    if number % SHOWN_EVERY == 0:
        on_info(f"listing the corpus: {text}")


def _sorted(sources: Iterable[Source], directory: Path | None, on_info: OnInfo) -> Iterator[Source]:
    """Yield the sources sorted by path; of several with the same path, the last."""
    records, parts = map(_record, _counted(sources, on_info)), list[Iterable[Record]]()
    spilled = _Records(directory)
    while part := sorted(islice(records, SORTED_TOGETHER), key=itemgetter(0)):
        if len(part) < SORTED_TOGETHER:
            parts.append(part)  # the last one
        else:
            start = len(spilled)
            spilled.extend(part)
            parts.append(spilled.between(start, len(spilled)))
    # Sorting and merging are stable, so the last of equal paths is the one that was found last.
    last: Record | None = None
    for record in heapq.merge(*parts, key=itemgetter(0)):
        if last is not None and record[0] != last[0]:
            yield Source(*last)
        last = record
    if last is not None:
        yield Source(*last)


def _counted(sources: Iterable[Source], on_info: OnInfo) -> Iterator[Source]:
    for number, source in enumerate(sources, start=1):
        yield source
        _show(on_info, number, f"found {number:,} files")


class _Records:
    """A list of tuples in a temporary file. It is appended to first, and then read."""

    def __init__(self, directory: Path | None):
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(directory) if directory else None)  # noqa: SIM115, closed when collected
        self._starts: list[int] = []
        """Position of each full block."""
        self._rest: list[Record] = []

    def __len__(self) -> int:
        return BLOCK * len(self._starts) + len(self._rest)

    def append(self, record: Record) -> None:
        self._rest.append(record)
        if len(self._rest) == BLOCK:
            self._starts.append(self._file.seek(0, 2))
            pickle.dump(self._rest, self._file)
            self._rest = []

    def extend(self, records: Iterable[Record]) -> None:
        for record in records:
            self.append(record)

    def __iter__(self) -> Iterator[Record]:
        return self.between(0, len(self))

    def between(self, start: int, end: int) -> Iterator[Record]:
        """Yield the records `start` (inclusive) to `end` (exclusive)."""
        for number in range(start // BLOCK, -(-end // BLOCK)):
            if number < len(self._starts):
                self._file.seek(self._starts[number])
                block = pickle.load(self._file)
            else:
                block = self._rest
            yield from block[max(start - number * BLOCK, 0) : end - number * BLOCK]
