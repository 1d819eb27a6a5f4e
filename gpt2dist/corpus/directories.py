"""Walk directories and expand patterns: links are followed, directories visited once, and all errors reported."""

import glob
import os
from collections import deque
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

SORTED_TOGETHER = 1 << 13
"""Entries of a directory that are held and sorted at a time, so that a directory may have millions of files."""

Enter = Callable[[Path], bool]
"""Returns whether to search a directory."""
OnError = Callable[[Path, OSError], None]
"""Called with a path that cannot be read."""


def walk(root: Path, enter: Enter, on_error: OnError) -> Iterator[tuple[Path, Iterator[str]]]:
    """Yield each directory at or below `root`, with the names of everything in it that is not a directory.

    The names are sorted, unless they are more than `SORTED_TOGETHER`. Use them before the next directory.

    Links to directories are followed last, so that a directory is reported by its real path if it has one below
    `root`. A directory that several links lead to is visited once, and those that contain `root` never.

    Args:
        root: The directory to start at, whatever its name.
        enter: Decides about each directory below it.
        on_error: Called with each directory that cannot be listed, and each dangling link.
    """
    visited = {_identity(each) for each in root.resolve().parents}
    real, links = deque([root]), deque[Path]()
    while real or links:
        directory = real.popleft() if real else links.popleft()
        try:
            identity = _identity(directory)
            if identity in visited or (directory != root and not enter(directory)):
                continue
            visited.add(identity)
            entries = os.scandir(directory)
        except OSError as error:
            on_error(directory, error)
            continue
        folders: list[tuple[str, bool]] = []
        with entries:
            files = _files(directory, entries, folders, on_error)
            yield directory, files
            deque(files, maxlen=0)  # names that the caller did not use
        for name, is_link in sorted(folders):
            (links if is_link else real).append(directory / name)


def expand(pattern: str, enter: Enter, on_error: OnError) -> Iterator[Path]:
    """Yield the paths that match a pattern, as `glob.glob` does, in any order and perhaps more than once."""
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    yield from _match(Path(*parts[:fixed]), parts[fixed:], enter, on_error)


def _match(base: Path, parts: tuple[str, ...], enter: Enter, on_error: OnError) -> Iterator[Path]:
    """Yield the paths below `base` whose parts match."""
    first, rest = parts[0], parts[1:]
    if first == "**":
        for directory, _ in walk(base, enter, on_error):
            yield from _match(directory, rest or ("*",), enter, on_error)
        return
    for name in _names(base, first, on_error):
        path = base / name
        if not rest:
            yield path
        elif path.is_dir() and enter(path):
            yield from _match(path, rest, enter, on_error)


def _names(base: Path, pattern: str, on_error: OnError) -> list[str]:
    """Return the names in a directory that match a pattern. Only a pattern with a dot matches hidden names."""
    if not glob.has_magic(pattern):
        return [pattern] if os.path.lexists(base / pattern) else []
    try:
        names = sorted(path.name for path in base.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        on_error(base, error)
        return []
    return [
        name
        for name in names
        if fnmatchcase(name, pattern) and (pattern.startswith(".") or not name.startswith("."))
    ]


def _files(
    directory: Path, entries: Iterator["os.DirEntry[str]"], folders: list[tuple[str, bool]], on_error: OnError
) -> Iterator[str]:
    """Yield the names in a directory, except those of directories to search: add these to `folders`.

    Each folder has its name and whether it is a link. A dangling link is an error unless it is hidden, since its
    target may have been part of the corpus.
    """
    try:
        while part := sorted(islice(entries, SORTED_TOGETHER), key=lambda entry: entry.name):
            names = []
            for entry in part:
                try:
                    is_link = entry.is_symlink()
                    if is_link and not entry.name.startswith("."):
                        entry.stat()
                    is_folder = entry.is_dir() and not entry.name.startswith(".")
                except OSError as error:
                    on_error(directory / entry.name, error)
                    continue
                if is_folder:
                    folders.append((entry.name, is_link))
                else:
                    names.append(entry.name)
            yield from names
    except OSError as error:  # from the directory itself
        on_error(directory, error)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
