"""Where files lie: on this machine, or behind a URL that fsspec knows."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpt2dist.errors import UserError

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_url(path: str) -> bool:
    """Whether fsspec is to be asked for it."""
    return _URL.match(path) is not None


def open_file(path: str) -> io.RawIOBase:
    """Opens a file to read from any of its bytes on.

    Raises:
        OSError: A local file cannot be opened.
        UserError: One behind a URL cannot.
    """
    if is_url(path):
        return _RemoteFile(path)
    return open(path, "rb", buffering=0)


def filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
        UserError: The protocol is not known, or its package is not installed.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{url}: {error} (with pip, beside gpt2dist)") from None
    except ValueError as error:  # the protocol is unknown, or the URL is not of its form
        raise UserError(f"{url}: {error}") from None


@contextmanager
def reaching(url: str, what: str = "read") -> Iterator[None]:
    """Makes any failure of a file system a `UserError`: each protocol raises exceptions of its own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise unreadable(url, error, what) from error


def unreadable(path: str, error: Exception, what: str = "read") -> UserError:
    """For a file that is there no longer, or may not be read, or is too far away."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UserError(f"{path}: cannot be {what} ({why}); the job can be run again to go on")


def damaged(path: str, kind: str, error: Exception) -> UserError:
    """For a file whose content is not what it should be."""
    return UserError(f"{path}: damaged, or not {kind} ({error}); get it anew, or leave it out")


class _RemoteFile(io.RawIOBase):
    """A file behind a URL, whose failures are `UserError`."""

    def __init__(self, url: str):
        self._url = url
        with reaching(url):
            system, path = filesystem(url)
            self._file = system.open(path, "rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with reaching(self._url):
            return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with reaching(self._url):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
