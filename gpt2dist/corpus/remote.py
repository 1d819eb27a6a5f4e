"""Discovery of corpus files at URLs."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gpt2dist.corpus.documents import Source
from gpt2dist.corpus.formats import format_of, kind_of, no_file_in_directory
from gpt2dist.corpus.storage import filesystem, reaching
from gpt2dist.errors import UserError

CONNECTIONS = 16
"""At most this many files are asked for their size at the same time."""
_MAGIC = re.compile(r"[*?\[]")
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "checksum", "blob_id"),
    *("mtime", "LastModified", "last_modified", "created"),
)
"""Keys of fsspec's file information that change with the file, in order of preference."""


def find_remote(
    url: str, suffixes: tuple[str, ...], given: str | None, ignored: Counter[str], named: bool
) -> list[Source]:
    """Return the sources at a URL: one file, the files of a directory, or the matches of a glob.

    Args:
        url: The URL.
        suffixes: Suffixes of the files to take from a directory.
        given: Format of all files; None to detect it from each name.
        ignored: Ignored files by kind; this call adds to it.
        named: Whether the user named the suffixes.

    Raises:
        UserError: No file matches, the URL cannot be reached, or a file is of unknown size or unsupported format.
    """
    with reaching(url, "listed"):
        system, path = filesystem(url)
        if not path.endswith("/") and system.isfile(path):  # a web server's listing is a file, too
            found = {path: system.info(path)}
        elif system.isdir(path):
            below = system.find(path, detail=True)
            found = _visible(below, path)
            found = {name: info for name, info in found.items() if name.lower().endswith(suffixes)}
            if not found:
                raise UserError(no_file_in_directory(url, suffixes, named))
            ignored.update(kind_of(name.rpartition("/")[2]) for name in below if name not in found)
        elif _MAGIC.search(path):
            directory = _MAGIC.split(path)[0].rpartition("/")[0]
            found = _visible(system.glob(path, detail=True), directory)
            found = {name: info for name, info in found.items() if info["type"] == "file"}
            if not found:
                raise UserError(f"{url}: this pattern matches no file")
        else:
            raise UserError(f"{url}: no such file or directory")
        found = _with_sizes(system, found)
    return [_source(system.unstrip_protocol(name), info, given) for name, info in found.items()]


def _with_sizes(system: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Ask for each file whose size the listing does not have, as those of web servers; several at a time."""
    missing = [name for name, info in found.items() if info["size"] is None]
    with ThreadPoolExecutor(max_workers=CONNECTIONS) as pool:
        return found | dict(zip(missing, pool.map(system.info, missing), strict=True))


def _visible(found: dict[str, Any], directory: str) -> dict[str, Any]:
    """Drop files that are hidden, or in a hidden directory, below `directory`."""
    return {name: info for name, info in found.items() if "/." not in name.removeprefix(directory.rstrip("/"))}


def _source(url: str, info: dict[str, Any], given: str | None) -> Source:
    name = url.partition("?")[0] if url.startswith("http") else url
    format, compression = format_of(name, given)
    if info["size"] is None:
        raise UserError(f"{url}: the server does not report the size of this file; download it first")
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    return Source(url, format, compression, info["size"], version)
