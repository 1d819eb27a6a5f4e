"""Discovery of the sources of a corpus, in a reproducible order."""

import errno
import glob
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from gpt2dist.corpus.directories import expand, walk
from gpt2dist.corpus.documents import Source
from gpt2dist.corpus.formats import (
    HUB_PREFIX,
    default_suffixes,
    format_of,
    kind_of,
    no_file_in_directory,
    reader,
    require_format,
)
from gpt2dist.corpus.identity import unreadable_paths
from gpt2dist.corpus.readers.base import NotDocumentsError
from gpt2dist.corpus.readers.saved_datasets import is_saved, saved_source
from gpt2dist.corpus.remote import find_remote
from gpt2dist.corpus.storage import is_url
from gpt2dist.errors import UserError

KINDS_SHOWN = 5
"""Kinds of ignored files that a message lists."""


def discover(
    inputs: Sequence[str],
    suffixes: Sequence[str] | None = None,
    exclude: Sequence[Path] = (),
    format: str | None = None,
    standard_input: Source | None = None,
    encoding: str | None = None,
    on_info: Callable[[str], None] = lambda text: None,
) -> list[Source]:
    """Find the sources of a corpus.

    Args:
        inputs: Files (any suffix), directories (searched recursively for `suffixes`; hidden names are ignored)
            and globs (`**` for any depth), all of them local or URLs; directories written by `save_to_disk` of
            the library `datasets`; "datasets:NAME[@REVISION][,config=CONFIG][,split=SPLIT]".
        suffixes: Suffixes to search directories for, with the dot; case is ignored. None: those of all readers.
        exclude: Directories never to read from, such as the output.
        format: Format of all files, a name in `formats.READERS` or `package.module:attribute`; None to detect it
            from each name.
        standard_input: Source for the input "-"; see `spool`.
        encoding: The encoding with which the sources will be read; see `Reading`.
        on_info: Called with one line about ignored files, and with a line for each skipped dataset directory.

    Returns:
        The sources without duplicates, sorted by path. Those of local files have no version; see `with_versions`.

    Raises:
        UserError: An input does not exist, matches no file, is a dataset directory or is in `exclude`; the
            format has no reader; a file has an unsupported format, or one that does not allow `encoding`; or
            files or directories are not readable.
    """
    search = Search(suffixes, exclude, format, encoding)
    found = {source.path: source for source in search.all(inputs, standard_input)}
    sources = [found[path] for path in sorted(found)]
    refuse_encoding(sources, encoding)
    search.report(on_info)
    return sources


def refuse_encoding(sources: Iterable[Source], encoding: str | None) -> None:
    """Refuse an encoding for sources whose format determines the encoding of its text.

    Raises:
        UserError: There is such a source; the message names the first.
    """
    for source in sources:
        if encoding and not reader(source.format).has_encodings:
            raise UserError(
                f"--encoding {encoding}: {source.path} is {source.format}, a format that determines the encoding "
                "of its text; omit the option, or read this source separately"
            )


class Search:
    """A search for sources, which also collects ignored, skipped and unreadable files.

    Args:
        suffixes: See `discover`.
        exclude: See `discover`.
        format: See `discover`.
        encoding: See `discover`.

    Raises:
        UserError: The format has no reader.
    """

    def __init__(
        self, suffixes: Sequence[str] | None, exclude: Sequence[Path], format: str | None, encoding: str | None
    ):
        require_format(format)
        self._by_user = suffixes is not None
        self._suffixes = tuple(map(str.lower, default_suffixes(format) if suffixes is None else suffixes))
        self._format, self._encoding = format, encoding
        self._excluded = {os.path.realpath(path) for path in exclude}
        self._ignored: Counter[str] = Counter()
        self._skipped: dict[Path, None] = {}
        self._unreadable: list[tuple[object, OSError]] = []

    def all(self, inputs: Sequence[str], standard_input: Source | None = None) -> Iterator[Source]:
        """Yield the sources of all inputs, in any order. A source may come twice; the later one is valid.

        Raises:
            UserError: As for `discover`, but encodings are not checked.
        """
        for name in inputs:
            if name != "-":
                yield from self._sources(name)
            elif standard_input is not None:
                yield standard_input
            else:
                raise UserError("-: standard input is not accepted here; save it to a file first")

    def _sources(self, name: str) -> Iterator[Source]:
        """Yield the sources of one input."""
        if name.startswith(HUB_PREFIX):
            from gpt2dist.corpus.readers.hub import hub_source

            yield hub_source(name)
            return
        if is_url(name):
            yield from find_remote(name, self._suffixes, self._format, self._ignored, self._by_user)
            return
        path = Path(name)
        try:
            if path.is_dir() and not is_saved(path):
                files, named = self._in_directory(path), False
            elif os.path.lexists(path):
                files, named = iter([self._named(path)]), True
            else:
                files, named = self._matching(name), True
            for file in files:
                if source := self._source(file, named):
                    yield source
        except OSError as error:  # in a directory that may not be searched
            raise unreadable_paths([(error.filename or name, error)]) from None
        if self._unreadable:
            raise unreadable_paths(self._unreadable)

    def report(self, on_info: Callable[[str], None]) -> None:
        """Report skipped directories and ignored files."""
        for directory in self._skipped:
            on_info(f"skipped {directory}: a dataset directory, or the unfinished work on one")
        if count := self._ignored.total():
            kinds = self._ignored.most_common()
            kinds.sort(key=lambda item: (-item[1], item[0]))
            listed = [f"{number:,} {kind}" for kind, number in kinds[:KINDS_SHOWN] if number]
            if rest := sum(number for _, number in kinds[KINDS_SHOWN:]):
                listed.append(f"{rest:,} of other kinds")
            on_info(f"ignored {count:,} file{'s' * (count > 1)}: {', '.join(listed)}")

    # --- Names of files -----------------------------------------------------------------------------------

    def _in_directory(self, root: Path) -> Iterator[Path]:
        """Yield the files below a directory that have one of the suffixes, and its saved datasets."""
        if self._is_excluded(root) or _is_dataset(root):
            raise UserError(f"{root}: a dataset directory is not a corpus; name the files that it was made from")
        datasets: list[Path] = []

        def enter(directory: Path) -> bool:
            if not self._may_enter(directory):
                return False
            saved = is_saved(directory)
            if saved and ".arrow" in self._suffixes:
                datasets.append(directory)
            return not saved

        found = False
        for directory, names in walk(_absolute(root), enter, self._cannot_read):
            for name in names:
                if not name.startswith(".") and name.lower().endswith(self._suffixes):
                    found = True
                    yield directory / name
                else:
                    self._ignored[kind_of(name)] += 1
        yield from datasets
        if not (found or datasets or self._unreadable):
            raise UserError(no_file_in_directory(str(root), self._suffixes, self._by_user))

    def _named(self, path: Path) -> Path:
        if any(map(self._is_excluded, _absolute(path).parents)):
            raise UserError(f"{path}: is inside the output; choose another input or output")
        return _absolute(path)

    def _matching(self, name: str) -> Iterator[Path]:
        """Yield the files and saved datasets that match a pattern, perhaps more than once."""
        if not glob.has_magic(name):
            raise UserError(f"{name}: no such file or directory")
        found, directories = False, set[Path]()
        parent, is_excluded = Path(), False
        for match in map(_absolute, expand(name, self._may_enter, self._cannot_read)):
            if match.is_dir() and not is_saved(match):
                directories.add(match)
                continue
            if match.parent != parent:
                parent, is_excluded = match.parent, any(map(self._is_excluded, match.parents))
            if not is_excluded:
                found = True
                yield match
        if "**" not in name:  # otherwise the pattern matches their files too
            self._ignored["directory"] += len(directories)
        if not found and not self._unreadable:
            raise UserError(f"{name}: this pattern matches no file")

    def _may_enter(self, directory: Path) -> bool:
        """Return whether to search a directory that the user did not name."""
        if self._is_excluded(directory):
            return False
        if _is_dataset(directory):
            self._skipped[_absolute(directory)] = None
            return False
        return True

    def _is_excluded(self, directory: Path) -> bool:
        return bool(self._excluded) and os.path.realpath(directory) in self._excluded

    def _cannot_read(self, path: Path, error: OSError) -> None:
        self._unreadable.append((path, error))

    # --- Their formats ------------------------------------------------------------------------------------

    def _source(self, path: Path, named: bool) -> Source | None:
        """Return the source of a file or saved dataset; None if it is ignored or cannot be read."""
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                return saved_source(path)
            if not os.access(path, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:  # also from a dangling link
            self._cannot_read(path, error)
            return None
        if not stat.S_ISREG(status.st_mode):
            if named:
                raise UserError(
                    f"{path}: a pipe or device, which can be read only once; pass it as standard input (-)"
                )
            self._ignored["pipe or device"] += 1
            return None
        format, compression = format_of(str(path), self._format)
        try:
            if status.st_size:
                reader(format).check(str(path), compression, self._encoding)
        except NotDocumentsError as error:
            if named:
                raise
            self._ignored[error.kind] += 1
            return None
        return Source(str(path), format, compression, status.st_size, "")


def _absolute(path: str | Path) -> Path:
    """Make a path absolute and remove "..". Keep symbolic links, since the given name determines the format."""
    return Path(os.path.normpath(Path(path).absolute()))


def _is_dataset(directory: Path) -> bool:
    """Return whether a directory is a dataset of gpt2dist, or the unfinished work on one."""
    if not (directory / "sources.jsonl").is_file():
        return False
    return (directory / "manifest.json").is_file() or (directory / "plan.json").is_file()
