"""Discovery of the sources of a corpus, in a reproducible order."""

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt2dist.corpus.documents import Source
from gpt2dist.corpus.formats import DEFAULT_SUFFIXES, HUB_PREFIX, PLAIN_FORMATS, format_of, no_file_in_directory
from gpt2dist.corpus.readers.saved_datasets import is_saved, saved_source
from gpt2dist.corpus.remote import find_remote
from gpt2dist.corpus.storage import is_url
from gpt2dist.errors import UserError


def discover(
    inputs: Sequence[str],
    suffixes: Sequence[str] = DEFAULT_SUFFIXES,
    exclude: Sequence[Path] = (),
    format: str | None = None,
    standard_input: Source | None = None,
    encoding: str | None = None,
) -> list[Source]:
    """Find the sources of a corpus.

    Args:
        inputs: Files (any suffix), directories (searched recursively for `suffixes`; hidden names are skipped)
            and globs (`**` for any depth), all of them local or URLs; directories written by `save_to_disk` of
            the library `datasets`; "datasets:NAME[@REVISION][,config=CONFIG][,split=SPLIT]".
        suffixes: Suffixes to search directories for, with the dot; case is ignored.
        exclude: Directories to skip, such as the output.
        format: Format of all files; None to detect it from each name.
        standard_input: Source for the input "-"; see `spool`.
        encoding: The encoding with which the sources will be read; see `Reading`.

    Returns:
        The sources without duplicates, sorted by path.

    Raises:
        UserError: An input does not exist or matches no file, or a file is of a kind that cannot be read or that
            has no choice of an encoding.
    """
    wanted = tuple(suffix.lower() for suffix in suffixes)
    barred = {_absolute(path) for path in exclude}
    found: dict[str, Source] = {}
    for name in inputs:
        if name == "-":
            if standard_input is None:
                raise UserError("-: standard input is not taken here; put it into a file first")
            found[name] = standard_input
        else:
            found |= {source.path: source for source in _expand(name, wanted, barred, format)}
    sources = [found[path] for path in sorted(found)]
    refuse_encoding(sources, encoding)
    return sources


def refuse_encoding(sources: Sequence[Source], encoding: str | None) -> None:
    """Refuse an encoding for sources whose format determines the encoding of its text.

    Raises:
        UserError: There is such a source; the message names the first.
    """
    for source in sources:
        if encoding and source.format not in PLAIN_FORMATS:
            raise UserError(
                f"--encoding {encoding}: {source.path} is {source.format}, whose text is always UTF-8; leave the "
                "option out, or read this source apart"
            )


def _expand(name: str, suffixes: tuple[str, ...], barred: set[Path], format: str | None) -> list[Source]:
    """Return the sources of one input."""
    if name.startswith(HUB_PREFIX):
        from gpt2dist.corpus.readers.hub import hub_source

        return [hub_source(name)]
    if is_url(name):
        return find_remote(name, suffixes, format)
    return [_source(_absolute(path), format) for path in _local(name, suffixes, barred)]


def _local(name: str, suffixes: tuple[str, ...], barred: set[Path]) -> list[Path]:
    """Return the paths of the files and saved datasets of one local input."""
    path = Path(name)
    if path.is_dir() and not is_saved(path):
        found = list(_walk(_absolute(path), suffixes, barred))
        if not found:
            raise UserError(no_file_in_directory(name, suffixes))
        return found
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        raise UserError(f"{name}: no such file or directory")
    found = [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207, `name` can be absolute
    found = [match for match in found if match.is_file() or is_saved(match)]
    if not found:
        raise UserError(f"{name}: this pattern matches no file")
    return found


def _walk(directory: Path, suffixes: tuple[str, ...], barred: set[Path]) -> Iterator[Path]:
    """Yield the files that have one of the suffixes, and the saved datasets if .arrow is one of them."""

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})")

    for root, folders, files in os.walk(directory, onerror=fail):
        below = [Path(root, name) for name in folders if not name.startswith(".")]
        saved = [path for path in below if path not in barred and is_saved(path)]
        folders[:] = [path.name for path in below if path not in barred and path not in saved]
        if ".arrow" in suffixes:
            yield from saved
        for name in files:
            path = Path(root, name)
            if not name.startswith(".") and name.lower().endswith(suffixes) and path.is_file():
                yield path


def _absolute(path: str | Path) -> Path:
    """Make a path absolute and remove "..". Keep symbolic links, since the given name determines the format."""
    return Path(os.path.normpath(Path(path).absolute()))


def _source(path: Path, given: str | None) -> Source:
    if path.is_dir():
        return saved_source(path)
    format, compression = format_of(str(path), given)
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: a pipe or device, which can be read only once; give it as standard input (-)")
    return Source(str(path), format, compression, status.st_size, str(status.st_mtime_ns))
