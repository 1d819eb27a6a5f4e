"""Check, before any work, that an output can be created under the name that the user gave; and create it.

Directories are built under a temporary name and renamed at the end; files are replaced in one step. So an output
is never incomplete. Instead of reading permissions, the checks create and rename a directory: root may ignore
permissions, and network disks report wrong ones.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gpt2dist import atomic_io
from gpt2dist.errors import RunError, UserError

_MOUNTS = Path("/proc/self/mountinfo")
"""Linux's list of mounts, which includes bind mounts; `os.path.ismount` does not see those."""


def resolved(path: Path) -> Path:
    """Return the path that a rename must name: the target of a symbolic link, without a final "." or "..".

    A temporary name beside it is then on the same disk. Other paths are returned unchanged.
    """
    return Path(os.path.realpath(path)) if path.name in ("", "..") or path.is_symlink() else path


def check_new_directory(path: Path, option: str = "--output", reuse: bool = False) -> None:
    """Check that a directory can be created by renaming a finished one beside it.

    Args:
        path: The directory to create.
        option: The option that named it, for messages.
        reuse: Whether the directory may have content, such as an earlier result, which the caller then checks.

    Raises:
        UserError: The path is a file, below a file, not empty, a mount point or the working directory, or nothing
            can be created beside it.
    """
    with _named(path, option):
        target = Path(os.path.realpath(path))
        if _is_directory(target, option):
            if any(target.iterdir()):
                if reuse:
                    return
                raise UserError(f"{option}: {path} is not empty; name a new directory")
            _require_replaceable(path, target, option)
        _try_names(target, option)


def check_directory(path: Path, option: str = "--output") -> None:
    """Check, without leaving a trace, that files can be created in a directory, which may exist already.

    Raises:
        UserError: The path is a file or below a file, a link is broken, or nothing can be created there.
    """
    with _named(path, option):
        for each in (path, *path.absolute().parents):
            if each.is_symlink() and not each.exists():
                raise UserError(f"{option}: {each} is a broken link; create the directory that it points to")
        target = Path(os.path.realpath(path))
        _is_directory(target, option)
        home = nearest_directory(target)
        with _trying("nothing", home, option), tempfile.TemporaryFile(dir=home):
            pass


def check_file(path: Path, option: str = "--output") -> None:
    """Check that a file can be created or replaced. Devices and pipes count as files.

    Raises:
        UserError: The path is a directory or below a file, or nothing can be created beside it.
    """
    with _named(path, option):
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise UserError(f"{option}: {path} is a directory; name a file, such as {path / 'output'}")
        if target.exists() and not os.access(target, os.W_OK):
            raise UserError(f"{option}: {path} is write-protected; name another file")
        if not _is_stream(path):
            _is_directory(target.parent, option)
            _try_names(target, option)


def write_file(path: Path, text: str, option: str = "--output") -> None:
    """Create or replace a file in one step, and its directory if missing. The target of a link is replaced.

    Raises:
        RunError: The file cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        if _is_stream(path):
            path.write_text(text, encoding="utf-8", errors="replace")
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_io.write_text(target, text.encode("utf-8", "replace").decode())
    except BrokenPipeError:  # the command line ends quietly
        raise
    except OSError as error:
        raise RunError(f"{option}: {path} cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def new_directory(path: Path, option: str = "--output") -> Iterator[Path]:
    """Yield a temporary directory that is renamed to `path` at the end, or deleted after an exception.

    Args:
        path: The directory to create; it must not exist, or be empty.
        option: The option that named it, for messages.

    Raises:
        UserError: The directory cannot be created.
        RunError: A file in it cannot be written.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{option}: {partial.parent} cannot be written to ({error.strerror})") from None
    try:
        yield partial
        mode = partial.stat().st_mode & 0o666
        for file in partial.iterdir():
            file.chmod(mode)  # some libraries write files that only their owner can read
            atomic_io.sync(file)
        try:
            atomic_io.rename_directory(partial, target)
        except OSError as error:
            raise UserError(f"{option}: {path} cannot be created ({error.strerror}); name another") from None
    except OSError as error:
        raise RunError(
            f"{option}: {path} cannot be written ({error.strerror or error}); nothing was published"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def nearest_directory(path: Path) -> Path:
    """Return the path if it is a directory, else its nearest ancestor that is one."""
    return next(each for each in (path, *path.absolute().parents) if each.is_dir())


@contextlib.contextmanager
def _named(path: Path, option: str) -> Iterator[None]:
    """Report an error of the file system as a `UserError` that names the option."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{option}: {str(path)!r} cannot be used ({reason}); name another") from None


def _is_directory(target: Path, option: str) -> bool:
    """Return whether the directory exists. Raise a `UserError` if it, or one above it, is a file."""
    for each in (target, *target.parents):
        try:
            mode = each.stat().st_mode  # asked once, since another rank may create or delete it meanwhile
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            if each.is_symlink():
                raise UserError(f"{option}: {each} is a broken link; name a directory") from None
            continue
        if not stat.S_ISDIR(mode):
            raise UserError(f"{option}: {each} is a file; name a directory")
        return each == target
    return False


def _require_replaceable(path: Path, target: Path, option: str) -> None:
    """Check that an existing directory can be replaced by a rename."""
    if target.samefile(Path.cwd()):
        raise UserError(
            f"{option}: {path} is the working directory, which the finished directory would replace; name a new "
            f"one, such as {path / 'new'}"
        )
    if os.path.ismount(target) or str(target) in _mount_points():
        raise UserError(
            f"{option}: {path} is a mount point, which the finished directory cannot replace; name a new "
            f"directory on it, such as {path / 'new'}"
        )


def _mount_points() -> set[str]:
    """Return the mount points of this process, as far as the system lists them."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return set()
    octal = re.compile(r"\\([0-7]{3})")  # an escaped space or backslash
    return {octal.sub(lambda found: chr(int(found[1], 8)), line.split(" ")[4]) for line in lines}


def _is_stream(path: Path) -> bool:
    """Return whether a path is a device, a pipe or an open file (/dev/stdout), which no rename may replace."""
    return path.exists() and (not path.is_file() or path.absolute().parts[1:2] in (("dev",), ("proc",)))


def _try_names(target: Path, option: str) -> None:
    """Create, rename and delete a directory beside `target`, or where its first missing parent would be."""
    home = nearest_directory(target.parent)
    # As long as the longest of the temporary names that are derived from the name of an output.
    tried = home / f"{target.name}.{secrets.token_hex(6)}.tmp"
    with _trying(repr(target.name), home, option):
        tried.mkdir()
        try:
            tried = tried.rename(tried.with_suffix(".new"))
        finally:
            tried.rmdir()


@contextlib.contextmanager
def _trying(what: str, home: Path, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        can = "can" if what == "nothing" else "cannot"
        raise UserError(
            f"{option}: {what} {can} be created in {home} ({error.strerror}); name another place"
        ) from None
