"""Small texts of the messages."""

from collections.abc import Iterable


def alternatives(values: Iterable[object]) -> str:
    """`1, 2 or 3`."""
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last


def divisors(number: int) -> list[int]:
    """The divisors of `number` that a person may want: up to 1024."""
    return [d for d in range(1, min(number, 1024) + 1) if number % d == 0]
