"""Packages of others that offer parts of gpt2dist as entry points."""

import sys
from contextlib import contextmanager

from gpt2dist import registry


def write_metadata(directory, name, group, **parts):
    """Write what pip leaves of an installed package: parts are name → `package.module:attribute`."""
    info = directory / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"{part} = {target}\n" for part, target in parts.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")


@contextmanager
def installed(directory, name, group, **parts):
    """Install a package into a directory for a while; modules in the directory can be imported."""
    write_metadata(directory, name, group, **parts)
    registry._entry_points.cache_clear()
    sys.path.append(str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        registry._entry_points.cache_clear()
