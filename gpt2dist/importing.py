"""Functions and classes that users name as `package.module:attribute`."""

import importlib
import sys
from pathlib import Path
from typing import Any


def import_attribute(name: str) -> Any:
    """Import what a name such as "mytools:clean" stands for.

    The module may lie in the working directory, where `python -m` looks and a console script does not.

    Args:
        name: `package.module:attribute`.

    Raises:
        ValueError: The name is not of that form.
        Exception: Whatever the import of the module raises; AttributeError if it has no such attribute.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{name!r} is not of the form package.module:attribute")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return getattr(importlib.import_module(module), attribute)
