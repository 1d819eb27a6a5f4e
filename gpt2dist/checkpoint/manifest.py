"""What makes a directory a checkpoint: manifest.json, with the size and the sha256 of every other file.

Free of torch: whoever uses a checkpoint (a resume, an evaluation, an export) checks it here first.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io
from gpt2dist.errors import Gpt2distError, UserError

FORMAT_VERSION = 3
NAME = "manifest.json"

Records = dict[str, dict[str, Any]]
"""File name → its `bytes` and `sha256`."""


class InvalidCheckpointError(Gpt2distError):
    """A directory is not a whole checkpoint; the message says why."""


def write(directory: Path, files: Records) -> None:
    """Writes the manifest over files that lie in the directory.

    Raises:
        OSError: A file is not as long as was written, or the manifest cannot be written.
    """
    for name, record in files.items():
        size = (directory / name).stat().st_size
        if size != record["bytes"]:
            raise OSError(f"{directory / name} has {size} bytes, {record['bytes']} were written")
    atomic_io.write_json(
        directory / NAME, {"format_version": FORMAT_VERSION, "files": dict(sorted(files.items()))}
    )


def read(directory: Path, without: str | None = None) -> Records:
    """Reads a manifest and compares all but the contents of the files with it: an instant at any size.

    Args:
        directory: The checkpoint.
        without: Files whose names begin so are left out.

    Raises:
        InvalidCheckpointError: Says what is wrong.
    """
    if directory.is_symlink():
        raise InvalidCheckpointError("is a link, and links are not followed")
    if (directory / NAME).is_symlink():
        raise InvalidCheckpointError(f"{NAME} is a link, and links are not followed")
    try:
        manifest = json.loads((directory / NAME).read_text())
        version = manifest["format_version"]
        files: Records = {
            name: {"bytes": int(record["bytes"]), "sha256": str(record["sha256"])}
            for name, record in manifest["files"].items()
            if without is None or not name.startswith(without)
        }
    except FileNotFoundError:
        raise InvalidCheckpointError(f"has no {NAME}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidCheckpointError(f"its {NAME} cannot be read ({error})") from error
    if version != FORMAT_VERSION:
        raise InvalidCheckpointError(f"has format version {version}; this program reads {FORMAT_VERSION}")
    for name, record in files.items():
        _check_entry(directory, name, record["bytes"])
    return files


def _check_entry(directory: Path, name: str, size: int) -> None:
    if Path(name).name != name or name in (".", ".."):
        raise InvalidCheckpointError(f"its manifest names {name!r}, which is not a file of its own")
    file = directory / name
    if file.is_symlink():
        raise InvalidCheckpointError(f"{name} is a link, and links are not followed")
    try:
        there = file.stat().st_size
    except FileNotFoundError:
        raise InvalidCheckpointError(f"{name} is missing") from None
    except OSError as error:
        raise InvalidCheckpointError(f"{name} cannot be read ({error})") from error
    if there != size:
        raise InvalidCheckpointError(f"{name} has {there} bytes instead of {size}")


def check_contents(directory: Path, files: Records, names: Iterable[str] | None = None) -> None:
    """Compares the contents of files with their sha256.

    Args:
        directory: The checkpoint.
        files: What `read` returned.
        names: The files to look at; None means all.

    Raises:
        InvalidCheckpointError: Names a file that was changed.
    """
    for name in files if names is None else names:
        try:
            changed = atomic_io.sha256_of(directory / name) != files[name]["sha256"]
        except OSError as error:
            raise InvalidCheckpointError(f"{name} cannot be read ({error})") from error
        if changed:
            raise InvalidCheckpointError(f"{name} was changed after it was written (sha256 differs)")


def require_whole_model(directory: Path) -> None:
    """Checks the model in a checkpoint, its optimizer aside; directories of another make have no manifest.

    Raises:
        UserError: Says which file is wrong and how.
    """
    if not (directory / NAME).exists():
        return
    try:
        check_contents(directory, read(directory, without="optimizer-"))
    except InvalidCheckpointError as reason:
        raise UserError(f"{directory}: not a whole checkpoint: {reason}; name another") from reason


def seal(path: Path) -> dict[str, Any]:
    """Brings a file to the disk and returns its record."""
    atomic_io.sync(path)
    return {"bytes": path.stat().st_size, "sha256": atomic_io.sha256_of(path)}
