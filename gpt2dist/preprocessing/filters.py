"""Functions of the user that change or skip documents: `--normalizer` and `--filter`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpt2dist.errors import UserError
from gpt2dist.importing import import_attribute

MOST_REASONS = 100
"""Maximum number of reasons that the filters of a job may give within a task, since each is counted."""
_LONGEST_REASON = 100


@dataclass(frozen=True)
class Skip:
    """Return value of a filter that excludes a document from the dataset.

    Attributes:
        reason: Why, such as "too few letters". Use few reasons: each is counted in the manifest.
    """

    reason: str

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str) or not self.reason.isprintable() or not self.reason.strip():
            raise ValueError(f"the reason of Skip must be printable text, not {self.reason!r:.60}")
        if len(self.reason) > _LONGEST_REASON:
            raise ValueError(
                f"the reason of Skip has more than {_LONGEST_REASON} characters: {self.reason[:60]!r}…"
            )


class TextFunctions:
    """The normalizer and the filters of a job, in the order in which documents pass through them.

    Args:
        normalizer: "module:function", str → str; None for none.
        filters: "module:function" each, str → str or `Skip`.

    Raises:
        UserError: A module cannot be imported, or has no such function.
    """

    def __init__(self, normalizer: str | None, filters: Sequence[str]):
        self._functions = [("--normalizer", normalizer)] if normalizer is not None else []
        self._functions += [("--filter", name) for name in filters]
        self._calls = [_load(option, name) for option, name in self._functions]

    def __bool__(self) -> bool:
        return bool(self._functions)

    def apply(self, text: bytes, where: Callable[[], str]) -> bytes | Skip:
        """Pass a document through all functions. Filters do not see empty text.

        Args:
            text: The document, valid UTF-8.
            where: Describes the place of the document, for an error message.

        Raises:
            UserError: A function failed, or returned a value of a wrong type.
        """
        found: Any = text.decode()
        for (option, name), call in zip(self._functions, self._calls, strict=True):
            try:
                if option == "--filter" and not found:
                    break
                found = call(found)
                if isinstance(found, Skip) and option == "--filter":
                    return found
                if not isinstance(found, str):
                    raise TypeError(f"it returned {type(found).__name__}")
                encoded = found.encode()
            except Exception as error:  # whatever the function raises
                may = "return the text or Skip(reason)" if option == "--filter" else "turn any text into text"
                raise UserError(
                    f"{option} {name}: failed at {where()} ({type(error).__name__}: {error}); it must {may}"
                ) from error
        return encoded if found else b""


def _load(option: str, name: str) -> Callable[[str], Any]:
    try:
        found: Any = import_attribute(name)
    except Exception as error:  # whatever the module raises
        raise UserError(
            f"{option} {name}: cannot be imported ({type(error).__name__}: {error}); write module:function, such "
            "as mytools:clean, of a module in the working directory, on PYTHONPATH or installed"
        ) from error
    if not callable(found):
        raise UserError(f"{option} {name}: is {type(found).__name__}, not a function; name a function")
    return found
