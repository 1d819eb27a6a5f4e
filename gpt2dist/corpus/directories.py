"""Walk directories and expand patterns: links are followed, directories visited once, and all errors reported."""

import glob
import os
from collections import deque
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

Enter = Callable[[Path], bool]
"""Returns whether to search a directory."""
OnError = Callable[[Path, OSError], None]
"""Called with a path that cannot be read."""


def walk(root: Path, enter: Enter, on_error: OnError) -> Iterator[tuple[Path, list[str]]]:
    """Yield each directory at or below `root`, with the sorted names of everything in it that is not a directory.

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
            folders, files = _list(directory, on_error)
        except OSError as error:
            on_error(directory, error)
            continue
        yield directory, files
        for name, is_link in folders:
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


def _list(directory: Path, on_error: OnError) -> tuple[list[tuple[str, bool]], list[str]]:
    """Return the directories to search in a directory, each with whether it is a link, and all other names.

    A dangling link is an error unless it is hidden, since its target may have been part of the corpus.
    """
    folders, files = [], []
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            try:
                is_link = entry.is_symlink()
                if is_link and not entry.name.startswith("."):
                    entry.stat()
                if entry.is_dir() and not entry.name.startswith("."):
                    folders.append((entry.name, is_link))
                else:
                    files.append(entry.name)
            except OSError as error:
                on_error(directory / entry.name, error)
    return folders, files


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
