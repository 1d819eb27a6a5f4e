"""Access to local files and, through fsspec, to files at URLs."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpt2dist.errors import UserError

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_url(path: str) -> bool:
    """Return whether a path is a URL, which is opened through fsspec."""
    return _URL.match(path) is not None


def open_file(path: str) -> io.RawIOBase:
    """Open a file for unbuffered, seekable reading.

    Raises:
        OSError: A local file cannot be opened.
        UserError: A file at a URL cannot be opened.
    """
    if is_url(path):
        with reaching(path):
            system, inner = filesystem(path)
            return _RemoteFile(path, system.open(inner, "rb"))
    return open(path, "rb", buffering=0)


def first_bytes(path: str, count: int) -> bytes:
    """Return the first bytes of a file; fewer if it is shorter.

    Raises:
        OSError: A local file cannot be read.
        UserError: A file at a URL cannot be read.
    """
    if not is_url(path):
        with open_file(path) as file:
            return file.read(count) or b""
    with reaching(path):
        system, name = filesystem(path)
        return system.cat_file(name, start=0, end=count)


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path within it.

    Raises:
        UserError: The protocol is unknown, its package is not installed, or the URL is malformed.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{url}: {error} (with pip, into the environment of gpt2dist)") from None
    except ValueError as error:  # unknown protocol or malformed URL
        raise UserError(f"{url}: {error}") from None


@contextmanager
def reaching(url: str, what: str = "read") -> Iterator[None]:
    """Convert every exception of a file system to a `UserError`, since each protocol raises its own types."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise unreadable(url, error, what) from error


def unreadable(path: str, error: Exception, what: str = "read") -> UserError:
    """Build the error for a file that has disappeared, may not be read or cannot be reached."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UserError(f"{path}: cannot be {what} ({why}); run the job again to resume it")


def damaged(path: str, kind: str, error: Exception) -> UserError:
    """Build the error for a file whose content is damaged or not of its format."""
    return UserError(f"{path}: damaged, or not {kind} ({error}); get it again, or exclude it")


class _RemoteFile(io.RawIOBase):
    """A file at a URL, whose failures are raised as `UserError`.

    Args:
        url: The URL, for messages.
        file: The open file, which this object closes.
    """

    def __init__(self, url: str, file: Any):
        self._url = url
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with reaching(self._url):
            data = self._file.read(size)
            place, end = self._file.tell(), getattr(self._file, "size", None)
            if not data and size and end is not None and place < end:  # fsspec reports the end of the file
                raise OSError(f"received only the first {place:,} of {end:,} bytes")
            return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with reaching(self._url):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
