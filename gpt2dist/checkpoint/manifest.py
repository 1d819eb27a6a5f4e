"""The manifest of a checkpoint: manifest.json, with the size and sha256 of every other file.

A directory without a valid manifest is not a checkpoint. Code that uses a checkpoint (resume, evaluation, export)
checks it here first. Does not import torch.
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
"""Map from file name to its `bytes` and `sha256`."""


class InvalidCheckpointError(Gpt2distError):
    """A directory that is not a whole checkpoint; the message gives the reason."""


def write(directory: Path, files: Records) -> None:
    """Write the manifest of files that are already in the directory.

    Raises:
        OSError: A file is missing or not of its recorded size, or the manifest cannot be written.
    """
    for name, record in files.items():
        size = (directory / name).stat().st_size
        if size != record["bytes"]:
            raise OSError(f"{directory / name} has {size} bytes, {record['bytes']} were written")
    atomic_io.write_json(
        directory / NAME, {"format_version": FORMAT_VERSION, "files": dict(sorted(files.items()))}
    )


def read(directory: Path, without: str | None = None) -> Records:
    """Read a manifest and check its files, except their contents: fast for checkpoints of any size.

    Args:
        directory: The checkpoint.
        without: Prefix of file names to omit.

    Raises:
        InvalidCheckpointError: The manifest is missing, unreadable or of another format version, or a file is
            missing, unreadable, a link or of another size.
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
        raise InvalidCheckpointError(f"its manifest names {name!r}, which is not a separate file")
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
    """Compare the contents of files with their sha256.

    Args:
        directory: The checkpoint.
        files: Result of `read`.
        names: Names of the files to check; None checks all.

    Raises:
        InvalidCheckpointError: A file was changed or cannot be read; the message names it.
    """
    for name in files if names is None else names:
        try:
            changed = atomic_io.sha256_of(directory / name) != files[name]["sha256"]
        except OSError as error:
            raise InvalidCheckpointError(f"{name} cannot be read ({error})") from error
        if changed:
            raise InvalidCheckpointError(f"{name} was changed after it was written (sha256 differs)")


def require_whole_model(directory: Path) -> None:
    """Check all files of a checkpoint except the optimizer's. Accept a model directory without a manifest.

    Raises:
        UserError: The checkpoint is invalid; the message names the file and the fault.
    """
    if not (directory / NAME).exists():
        return
    try:
        check_contents(directory, read(directory, without="optimizer-"))
    except InvalidCheckpointError as reason:
        raise UserError(f"{directory}: not a complete checkpoint: {reason}; name another") from reason


def seal(path: Path) -> dict[str, Any]:
    """Flush a file to disk and return its manifest record."""
    atomic_io.sync(path)
    return {"bytes": path.stat().st_size, "sha256": atomic_io.sha256_of(path)}
