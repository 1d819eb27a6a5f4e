"""A directory that appears whole, by one rename, or not at all."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from gpt2dist import atomic_io
from gpt2dist.errors import RunError, UserError
from gpt2dist.memory import format_bytes
from gpt2dist.preflight.resources import nearest_directory


def require_room(output: Path, needed: int) -> None:
    """Refuses what could not be published, before the work.

    Args:
        output: The directory to make.
        needed: Bytes that it will take.

    Raises:
        UserError: It is there already, or the disk is too full.
    """
    try:
        blocking = [path for path in (output, *output.absolute().parents) if path.exists() and not path.is_dir()]
        taken = output.is_dir() and any(output.iterdir())
    except OSError as error:
        raise UserError(f"--output: {output} cannot be looked at ({error.strerror}); name another") from None
    if blocking:
        raise UserError(f"--output: {blocking[0]} is a file; name a directory")
    if taken:
        raise UserError(f"--output: {output} is not empty; name a directory that is not there yet")
    home = nearest_directory(output)
    free = shutil.disk_usage(home).free
    if free < needed:
        raise UserError(
            f"--output: {home} has {format_bytes(free)} free and the model takes {format_bytes(needed)}; free "
            "some, or name a directory on a larger disk"
        )


@contextlib.contextmanager
def published(output: Path) -> Iterator[Path]:
    """A directory to write into, which is renamed to `output` at the end, or removed if that is not reached.

    Args:
        output: The directory to make; it is not there, or empty.

    Raises:
        UserError: It cannot be made.
        RunError: What should lie in it cannot be written.
    """
    output = output.resolve()
    partial = output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--output: {partial.parent} cannot be written to ({error.strerror})") from None
    try:
        yield partial
        mode = partial.stat().st_mode & 0o666
        for path in partial.iterdir():
            path.chmod(mode)  # safetensors writes files that their owner alone may read
            atomic_io.sync(path)
        try:
            atomic_io.rename_directory(partial, output)
        except OSError as error:
            raise UserError(f"--output: {output} cannot be made ({error.strerror}); name another") from None
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"--output: {output} cannot be written ({reason}); nothing was published") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
