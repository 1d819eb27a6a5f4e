"""Create an output directory atomically, by one rename."""

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
    """Check before the work that a directory can be published.

    Args:
        output: The directory to create.
        needed: Size of its files in bytes.

    Raises:
        UserError: The path or one of its parents is a file, the directory is not empty or cannot be read, or the
            disk has too little space.
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
    """Yield a temporary directory that is renamed to `output` at the end, or deleted after an exception.

    Args:
        output: The directory to create; it must not exist, or be empty.

    Raises:
        UserError: The directory cannot be created.
        RunError: A file in it cannot be written.
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
            path.chmod(mode)  # safetensors writes files that only their owner can read
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
