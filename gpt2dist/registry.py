"""Find optimizers, readers, schedulers and other parts by name: ours, and those of other packages.

A part is one of ours, one that an installed package offers as an entry point, or any object that a user names as
`package.module:attribute`. CONTRIBUTING.md describes how to add one of each kind.
"""

import functools
import importlib.util
from collections.abc import Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from gpt2dist.importing import import_attribute

T = TypeVar("T")


class Registry(Generic[T]):
    """Parts of one kind, by name. A part is imported on first use.

    Args:
        noun: What a part is, such as "optimizer", for messages.
        group: Entry-point group in which packages offer parts, such as "gpt2dist.optimizers".
        builtin: Our parts: name → `package.module:attribute`.
        protocol: Class whose public methods and attributes a part must have.
        extras: Those of our parts that need a package of the same name, which our extra of that name installs. It
            is imported when the part is used, not here.
    """

    def __init__(
        self,
        noun: str,
        group: str,
        builtin: Mapping[str, str],
        protocol: type,
        extras: Collection[str] = (),
    ):
        self.noun = noun
        self.group = group
        self._builtin = dict(builtin)
        self._extras = extras
        self._members = tuple(name for name in vars(protocol) if not name.startswith("_"))

    def names(self) -> tuple[str, ...]:
        """Return the names of our parts in their order, then of those that packages offer."""
        return (*self._builtin, *sorted(self._offered().keys() - self._builtin.keys()))

    def get(self, name: str) -> T:
        """Import and return a part.

        Args:
            name: A name of `names`, or `package.module:attribute`.

        Raises:
            ValueError: The name is unknown, its package is not installed, the import fails or the part lacks a
                member; the message has a fix.
        """
        target = self._builtin.get(name)
        if name in self._extras and not _is_installed(name):
            raise ValueError(f"{name} is not installed; pip install 'gpt2dist[{name}]', or omit it")
        if target is None and (offered := self._offered().get(name)):
            target = offered.value
        if target is None and ":" not in name.strip(":"):
            known = f" (known: {', '.join(self.names())}); write one of these, or" if self.names() else "; write"
            raise ValueError(f"unknown {self.noun} {name!r}{known} package.module:attribute")
        return self._load(target or name)

    def _load(self, target: str) -> T:
        try:
            found: Any = import_attribute(target)
        except Exception as error:  # whatever the module raises
            raise ValueError(
                f"{target} cannot be imported ({type(error).__name__}: {error}); install it, put its folder on "
                "PYTHONPATH, or omit it"
            ) from error
        missing = [member for member in self._members if not hasattr(found, member)]
        if missing:
            raise ValueError(
                f"the {self.noun} {target} lacks {', '.join(missing)} (needed: {', '.join(self._members)})"
            )
        return cast(T, found)

    def _offered(self) -> dict[str, EntryPoint]:
        return _entry_points(self.group)


def _is_installed(package: str) -> bool:
    """Return whether a package can be imported. A folder without modules, such as W&B's ./wandb, is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


@functools.cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name. Reads the metadata of all installed packages: milliseconds."""
    return {each.name: each for each in entry_points(group=group)}
