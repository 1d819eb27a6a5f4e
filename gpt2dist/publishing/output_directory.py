"""Create the directory of a published model atomically, by one rename."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from gpt2dist.errors import RunError, UserError
from gpt2dist.memory import format_bytes
from gpt2dist.output_paths import check_new_directory, nearest_directory, new_directory


def require_room(output: Path, needed: int) -> None:
    """Check before the work that a directory can be published.

    Args:
        output: The directory to create.
        needed: Size of its files in bytes.

    Raises:
        UserError: The directory cannot be created there, or the disk has too little space.
    """
    check_new_directory(output)
    home = nearest_directory(output.resolve())
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
    with new_directory(output) as partial:
        try:
            yield partial
        except SafetensorError as error:
            raise RunError(f"--output: {output} cannot be written ({error}); nothing was published") from error
