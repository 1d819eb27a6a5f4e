"""Helpers for the text of messages."""

from collections.abc import Iterable


def alternatives(values: Iterable[object]) -> str:
    """Join values as in `1, 2 or 3`."""
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last


def divisors(number: int) -> list[int]:
    """Return the divisors of `number` up to 1024; larger ones are of no practical use."""
    return [d for d in range(1, min(number, 1024) + 1) if number % d == 0]
