"""Draw plots with block characters, for terminals and logs."""

from collections.abc import Callable, Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH = 60
"""Columns of a plot."""


def sampled(function: Callable[[int], float], count: int, width: int = WIDTH) -> list[float]:
    """Return a function's values at up to `width` evenly spaced places from 0 to `count` − 1."""
    columns = min(width, count)
    return [function(column * (count - 1) // max(1, columns - 1)) for column in range(columns)]


def plot(
    values: Sequence[float], top: float, height: int, label: Callable[[float], str], x_labels: tuple[str, str]
) -> list[str]:
    """Draw one column per value, and return the lines.

    Args:
        values: Values from 0 to `top`.
        top: Value at the top of the plot, above 0.
        height: Lines from 0 to `top`.
        label: Formats a value for the y-axis.
        x_labels: Labels below the first and the last column.
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
