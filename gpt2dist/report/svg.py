"""Line charts as SVG text, small enough to send by mail."""

import html
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 40
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
MOST_POINTS = 600
"""Maximum points per curve. A longer curve is split into this many parts, and the mean of each is drawn."""


@dataclass(frozen=True)
class Curve:
    """Points (x, y) in ascending order of x. `dots` marks each point."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def chart(title: str, curves: Sequence[Curve]) -> str:
    """Return a chart over optimizer steps as SVG, or an empty string if no curve has a point."""
    curves = [Curve(each.name, thinned(each.points), each.dots) for each in curves if each.points]
    if not curves:
        return ""
    (left, right), (low, high) = (
        _range([point[axis] for each in curves for point in each.points]) for axis in (0, 1)
    )

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_text(LEFT, 18, title, "start", "title")]
    for value in ticks(low, high):
        _, y = place(left, value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{value:,.10g}", "end"))
    for value in ticks(left, right):
        x, _ = place(value, low)
        parts.append(_text(x, HEIGHT - BOTTOM + 18, f"{value:,.10g}", "middle"))
    for number, curve in enumerate(curves):
        colour, places = COLOURS[number % len(COLOURS)], [place(*point) for point in curve.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if curve.dots or len(places) == 1:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(_text(WIDTH - RIGHT, TOP + 16 * number, curve.name, "end", colour=colour))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 6, "step", "end"))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points, or the means of `MOST_POINTS` groups of consecutive points if there are more."""
    if len(points) <= MOST_POINTS:
        return list(points)
    borders = [len(points) * number // MOST_POINTS for number in range(MOST_POINTS + 1)]
    means = []
    for begin, end in itertools.pairwise(borders):
        xs, ys = zip(*points[begin:end], strict=True)
        means.append((sum(xs) / len(xs), sum(ys) / len(ys)))
    return means


def ticks(low: float, high: float) -> list[float]:
    """Return three to nine round numbers in a range."""
    rough = (high - low) / 8
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(factor for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
    # The tolerance absorbs rounding: 6e-4 / 2e-4 is slightly less than 3.
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.0 if high > low else max(abs(high), 1.0) * 0.1
    return low - room, high + room


def _text(x: float, y: float, text: str, anchor: str, kind: str = "label", colour: str = "") -> str:
    fill = f' fill="{colour}"' if colour else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} class="{kind}"{fill}>{html.escape(text)}</text>'
