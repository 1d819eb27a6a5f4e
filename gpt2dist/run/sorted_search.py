"""Find a place in a sorted file from its end, reading a few blocks however long the file is."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

WINDOW = 2**16
"""Bytes before the end in which the search begins."""
T = TypeVar("T")


class Found(NamedTuple, Generic[T]):
    """An item of a file.

    Attributes:
        start: Where it starts, in bytes.
        stop: Where it ends.
        item: The item.
    """

    start: int
    stop: int
    item: T


def first_late(
    begin: int, end: int, item_from: Callable[[int, int], Found[T] | None], is_late: Callable[[T], bool]
) -> tuple[int, T | None]:
    """Find the first late item of a file in which all late items follow the others.

    The search doubles its way back from the end and then bisects, so its cost is logarithmic in the distance of
    the item from the end.

    Args:
        begin: Where the first item starts, in bytes.
        end: Where the last item ends.
        item_from: Returns the first item that starts at or after a position and before a limit; None without one.
        is_late: Whether an item is late.

    Returns:
        Where the first late item starts, `end` if no item is late; and the item before it, None without one.
    """
    early, late, place = (
        begin,
        end,
        end,
    )  # items that start before `early` are early, from `late` on they are late
    last: T | None = None
    width, probe = WINDOW, max(begin, end - WINDOW)
    while early < late:
        found = item_from(probe, late)
        if found is None:
            late = probe
        elif is_late(found.item):
            late, place = probe, found.start
        else:
            early, last, width = found.stop, found.item, 0
        if width and probe > begin:
            width *= 4
            probe = max(begin, end - width)
        else:
            width, probe = 0, late - (late - early + 1) // 2
    return place, last
