"""Import functions and classes that users name as `package.module:attribute`."""

import importlib
import sys
from pathlib import Path
from typing import Any


def import_attribute(name: str) -> Any:
    """Import a module and return its attribute, given a name such as "mytools:clean".

    The working directory is added to the end of `sys.path`, since `python -m` searches it but a console script
    does not.

    Args:
        name: `package.module:attribute`.

    Raises:
        ValueError: The name does not have this form.
        AttributeError: The module has no such attribute.
        Exception: The import of the module failed; any exception that it raises is passed on.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{name!r} is not of the form package.module:attribute")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return getattr(importlib.import_module(module), attribute)
