"""Line charts as HTML and SVG that stretch to the width of the window, while their labels keep their size."""

import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpt2dist.report.decimation import Point, interpolated

WIDTH, HEIGHT = 1000, 300
"""Units of the drawing, which is stretched to the space that the page gives it."""
ROOM = 0.04
"""Free space above and below the curves, as a fraction of the height."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Curve:
    """A series of a chart.

    Attributes:
        name: Its name in the legend.
        colour: Number of its colour, the same in every chart of the page.
        points: (step, value), in ascending order.
        smoothed: The same, smoothed; empty if it is drawn as it is.
        dots: Whether its points are marked, and its line dashed.
    """

    name: str
    colour: int
    points: Sequence[Point]
    smoothed: Sequence[Point] = ()
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """The range of an axis, and whether it is logarithmic."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def of(cls, values: Iterable[float], log: bool = False, room: float = 0.0) -> "Axis":
        """Return the axis that has all values, with some room at both ends."""
        known = list(values)
        low, high = (math.log10(min(known)), math.log10(max(known))) if log else (min(known), max(known))
        free = (high - low) * room if high > low else max(abs(high), 1.0) * 0.1
        return cls(low - free, high + free, log)

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 to 1."""
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """Return round values on the axis."""
        if not self.log:
            return ticks(self.low, self.high, most)
        first, last = math.ceil(self.low), math.floor(self.high)
        if last - first >= 2:
            step = -(-(last - first + 1) // most)
            return [10.0**number for number in range(first, last + 1, step)]
        return [each for each in ticks(10**self.low, 10**self.high, most) if each > 0]


@dataclass(frozen=True)
class Chart:
    """A chart over steps, and over tokens where they are known.

    Attributes:
        title: The title.
        curves: The curves; those without points are omitted.
        tokens: For each curve, (step, tokens) of its run; empty if the chart is over steps only.
        log: Whether the chart can also be looked at with a logarithmic axis.
        note: A remark below the title.
    """

    title: str
    curves: Sequence[Curve]
    tokens: Sequence[Sequence[Point]] = ()
    log: bool = False
    note: str = ""

    def html(self, identity: str) -> str:
        """Return the chart as HTML, or an empty string if no curve has a point.

        Args:
            identity: What tells the chart from others of the page.
        """
        tokens = list(self.tokens) or [()] * len(self.curves)
        shown = [(curve, known) for curve, known in zip(self.curves, tokens, strict=True) if curve.points]
        if not shown:
            return ""
        curves = [curve for curve, _ in shown]
        by_tokens = [_against_tokens(*each) for each in shown] if all(known for _, known in shown) else []
        positive = self.log and all(value > 0 for curve in curves for _, value in curve.points)
        views = [
            (unit, log)
            for unit in ("steps", "tokens")[: 1 + bool(by_tokens)]
            for log in (False, True)[: 1 + positive]
        ]
        drawn = {"steps": curves, "tokens": by_tokens}
        switch = (
            "".join(_switch(identity, number, *each) for number, each in enumerate(views))
            if len(views) > 1
            else ""
        )
        pictures = "".join(self._view(drawn[unit], unit, log) for unit, log in views)
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        return (
            f'<figure class="chart"><figcaption>{html.escape(self.title)}</figcaption>{note}'
            f"{_legend(curves)}{switch}{pictures}{_data(curves, by_tokens)}</figure>\n"
        )

    def _view(self, curves: Sequence[Curve], unit: str, log: bool) -> str:
        across = Axis.of(x for curve in curves for x, _ in curve.points)
        up = Axis.of((y for curve in curves for _, y in curve.points), log, ROOM)
        lines, labels = [], []
        for value in up.ticks(6):
            y = 1 - up.place(value)
            lines.append(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y * HEIGHT:.1f}" y2="{y * HEIGHT:.1f}"/>')
            labels.append(f'<span class="y" style="top:{100 * y:.2f}%">{short(value)}</span>')
        for value in across.ticks(4):
            labels.append(f'<span class="x" style="left:{100 * across.place(value):.2f}%">{short(value)}</span>')
        for curve in curves:
            lines += _lines(curve, across, up)
        words = html.escape(f"{self.title}, against {unit}. {'; '.join(map(_described, curves))}", quote=True)
        return (
            f'<div class="view"><div class="plot" data-unit="{unit}" data-low="{across.low:.10g}" '
            f'data-high="{across.high:.10g}"><svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" '
            f'role="img" aria-label="{words}">{"".join(lines)}</svg>{"".join(labels)}</div>'
            f'<div class="unit">{unit}</div></div>'
        )


def _switch(identity: str, number: int, unit: str, log: bool) -> str:
    checked, name = " checked" if number == 0 else "", f"{identity}-{number}"
    return (
        f'<input type="radio" name="{identity}" id="{name}"{checked}>'
        f'<label for="{name}">{unit}{", log" if log else ""}</label>'
    )


def _lines(curve: Curve, across: Axis, up: Axis) -> list[str]:
    """Return the lines of a curve: what was measured, faint if a smoothed line lies over it."""

    def line(points: Sequence[Point], kind: str) -> str:
        places = [f"{across.place(x) * WIDTH:.1f},{(1 - up.place(y)) * HEIGHT:.1f}" for x, y in points]
        return f'<polyline class="{kind} s{curve.colour}" points="{" ".join(places)}"/>'

    found = [line(curve.points, "raw" if curve.smoothed else "eval" if curve.dots else "line")]
    if curve.smoothed:
        found.append(line(curve.smoothed, "line"))
    if curve.dots or len(curve.points) == 1:  # a line without length is a dot, which does not stretch
        found += [line([point, point], "dot") for point in curve.points]
    return found


def _legend(curves: Sequence[Curve]) -> str:
    if len(curves) == 1 and not curves[0].name:
        return ""
    items = (
        f'<li class="s{each.colour}"><i{" class=dashed" if each.dots else ""}></i>{html.escape(each.name)}</li>'
        for each in curves
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _described(curve: Curve) -> str:
    (first, begin), (last, end) = curve.points[0], curve.points[-1]
    low, high = (choose(value for _, value in curve.points) for choose in (min, max))
    name = f"{curve.name}: " if curve.name else ""
    return f"{name}{begin:.4g} at {first:,.0f}, {end:.4g} at {last:,.0f}, lowest {low:.4g}, highest {high:.4g}"


def _against_tokens(curve: Curve, tokens: Sequence[Point]) -> Curve:
    def moved(points: Sequence[Point]) -> list[Point]:
        xs = interpolated(tokens, [x for x, _ in points])
        return [(x, y) for x, (_, y) in zip(xs, points, strict=True)]

    return Curve(curve.name, curve.colour, moved(curve.points), moved(curve.smoothed), curve.dots)


def _data(curves: Sequence[Curve], by_tokens: Sequence[Curve]) -> str:
    """Return the numbers that the page shows at the pointer."""
    content = [
        {
            "name": curve.name,
            "colour": curve.colour,
            "steps": [round(x) for x, _ in curve.points],
            "tokens": [round(x) for x, _ in by_tokens[number].points] if by_tokens else [],
            "values": [float(f"{y:.5g}") for _, y in curve.points],
        }
        for number, curve in enumerate(curves)
    ]
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")  # "</script>" would end it
    return f'<script type="application/json">{text}</script>'


def ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Return a few round numbers in a range, at most `most` + 1."""
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(factor for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
    # The tolerance absorbs rounding: 6e-4 / 2e-4 is slightly less than 3.
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def short(value: float) -> str:
    """Format a number of an axis in a few characters, such as 3.5, 20 k, 1.5 G or 3·10⁻⁴."""
    size = abs(value)
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if factor <= size < 1e15:
            return f"{value / factor:.4g} {letter}"
    if value == 0 or 1e-2 <= size < 1e3:
        return f"{value:.4g}"
    digits, exponent = f"{value:.2e}".split("e")
    power = f"10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    digits = digits.rstrip("0").rstrip(".")
    return power if digits == "1" else f"{digits}·{power}"
