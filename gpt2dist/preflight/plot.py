"""A plot of block characters, for terminals and logs."""

from collections.abc import Callable, Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH = 60
"""Columns."""


def sampled(function: Callable[[int], float], count: int, width: int = WIDTH) -> list[float]:
    """The values of a function at the first of `count` places, the last and evenly between them."""
    columns = min(width, count)
    return [function(column * (count - 1) // max(1, columns - 1)) for column in range(columns)]


def plot(
    values: Sequence[float], top: float, height: int, label: Callable[[float], str], x_labels: tuple[str, str]
) -> list[str]:
    """Columns from zero up to each value.

    Args:
        values: One per column, from 0 to `top`.
        top: Above 0.
        height: Lines from 0 to `top`.
        label: Writes a value at the axis.
        x_labels: Below the first and the last column.
    """
    steps = len(BLOCKS) - 1
    heights = [round(value / top * height * steps) for value in values]
    names = {height - 1: label(top), 0: label(top / height)}
    margin = max(map(len, names.values()))
    lines = []
    for line in reversed(range(height)):
        blocks = "".join(BLOCKS[min(max(each - line * steps, 0), steps)] for each in heights)
        lines.append(f"{names.get(line, ''):>{margin}} │{blocks}".rstrip())
    left, right = x_labels
    axis = f"{left}{right:>{max(len(right) + 1, len(values) - len(left))}}"
    return [*lines, f"{'':>{margin}} {axis}"]
