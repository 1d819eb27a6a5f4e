"""The manifest of a checkpoint: manifest.json, with the size and sha256 of every other file.

A directory without a valid manifest is not a checkpoint. Code that uses a checkpoint (resume, evaluation, export)
checks it here first. Does not import torch.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io, json_files
from gpt2dist.errors import Gpt2distError, UserError

FORMAT_VERSION = 4
READABLE = (3, 4)
"""Format versions that can be read. Version 0.1 wrote 3, in which no tensor is cut by rows."""
NAME = "manifest.json"

NEEDED = ("config.json", "model", "optimizer-", "trainer_state.json")
"""Prefixes of the names of files that every checkpoint has."""
TENSORS = (".safetensors", ".bin")

Records = dict[str, dict[str, Any]]
"""Map from file name to its `bytes` and `sha256`."""


class InvalidCheckpointError(Gpt2distError):
    """A directory that is not a complete checkpoint; the message gives the reason."""


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
        InvalidCheckpointError: The manifest is missing, unreadable or of another format version; it does not list
            the files that every checkpoint has; a file is missing, unreadable, a link or of another size; or a
            file of tensors is not listed.
    """
    if directory.is_symlink():
        raise InvalidCheckpointError("is a link, and links are not followed")
    if (directory / NAME).is_symlink():
        raise InvalidCheckpointError(f"{NAME} is a link, and links are not followed")
    try:
        manifest = json_files.load(directory / NAME)
        version = manifest.get("format_version")
        if version not in READABLE:
            readable = " and ".join(map(str, READABLE))
            raise InvalidCheckpointError(f"has format version {version!r}; this program reads {readable}")
        files = _parse(manifest)
        unnamed = [each.name for each in directory.iterdir() if each.suffix in TENSORS and each.name not in files]
    except FileNotFoundError:
        raise InvalidCheckpointError(f"has no {NAME}") from None
    except (OSError, ValueError) as error:
        raise InvalidCheckpointError(f"its {NAME} cannot be read ({json_files.reason(error)})") from error
    if unnamed:
        raise InvalidCheckpointError(f"holds {min(unnamed)}, which its {NAME} does not list")
    files = {name: record for name, record in files.items() if without is None or not name.startswith(without)}
    for name, record in files.items():
        _check_entry(directory, name, record["bytes"])
    return files


def _parse(manifest: dict[str, Any]) -> Records:
    """Return the records of all files.

    Raises:
        ValueError: The manifest is malformed, or lacks a file.
    """
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise ValueError('its "files" is not an object')
    for name, record in files.items():
        size, digest = (record.get("bytes"), record.get("sha256")) if isinstance(record, dict) else (None, None)
        if not isinstance(size, int) or isinstance(size, bool) or not isinstance(digest, str):
            raise ValueError(f"the record of {name!r} lacks bytes or sha256")
    for needed in NEEDED:
        if not any(name.startswith(needed) for name in files):
            raise ValueError(f"it does not list {needed}")
    return {name: {"bytes": record["bytes"], "sha256": record["sha256"]} for name, record in files.items()}


def _check_entry(directory: Path, name: str, size: int) -> None:
    if Path(name).name != name or name in (".", ".."):
        raise InvalidCheckpointError(f"its manifest lists {name!r}, which is not a plain file name")
    file = directory / name
    if file.is_symlink():
        raise InvalidCheckpointError(f"{name} is a link, and links are not followed")
    try:
        status = file.stat()
    except FileNotFoundError:
        raise InvalidCheckpointError(f"{name} is missing") from None
    except (OSError, ValueError) as error:
        raise InvalidCheckpointError(f"{name!r} cannot be read ({json_files.reason(error)})") from error
    if not stat.S_ISREG(status.st_mode):
        raise InvalidCheckpointError(f"{name} is not a regular file")
    there = status.st_size
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
            raise InvalidCheckpointError(f"{name} cannot be read ({json_files.reason(error)})") from error
        if changed:
            raise InvalidCheckpointError(f"{name} was changed after it was written (sha256 differs)")


def is_checkpoint(directory: Path) -> bool:
    """Return whether a directory is a checkpoint, valid or not, and not a model directory of another make."""
    return os.path.lexists(directory / NAME) or any(directory.glob("optimizer-*.safetensors"))


def require_whole_model(directory: Path) -> None:
    """Check all files of a checkpoint except the optimizer's. Accept a model directory, which has no manifest.

    Raises:
        UserError: The checkpoint is invalid; the message names the file and the fault.
    """
    if not is_checkpoint(directory):
        return
    try:
        check_contents(directory, read(directory, without="optimizer-"))
    except InvalidCheckpointError as reason:
        raise UserError(f"{directory}: not a complete checkpoint: {reason}; name another") from reason


def seal(path: Path) -> dict[str, Any]:
    """Flush a file to disk and return its manifest record."""
    atomic_io.sync(path)
    return {"bytes": path.stat().st_size, "sha256": atomic_io.sha256_of(path)}
