from xml.etree import ElementTree

import pytest

from gpt2dist.report import svg
from gpt2dist.report.svg import Curve, chart, thinned, ticks


def test_a_point_lies_where_its_numbers_say():
    picture = ElementTree.fromstring(
        chart("a < b", [Curve("x & y", [(0, 1.0), (50, 2.0), (100, 5.0)], dots=True)])
    )
    assert "a < b" in [each.text for each in picture.iter("text")]
    dots = [(float(each.get("cx")), float(each.get("cy"))) for each in picture.iter("circle")]
    right, bottom = svg.WIDTH - svg.RIGHT, svg.HEIGHT - svg.BOTTOM
    assert dots[0] == (svg.LEFT, bottom)
    assert dots[1] == pytest.approx(((svg.LEFT + right) / 2, bottom - (bottom - svg.TOP) / 4), abs=0.1)
    assert dots[2] == (right, svg.TOP)


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_a_single_point_is_seen(value):
    picture = ElementTree.fromstring(chart("t", [Curve("c", [(7, value)])]))
    (dot,) = picture.iter("circle")
    assert float(dot.get("cx")) == (svg.LEFT + svg.WIDTH - svg.RIGHT) / 2
    assert float(dot.get("cy")) == (svg.TOP + svg.HEIGHT - svg.BOTTOM) / 2


def test_nothing_to_draw_is_no_chart():
    assert chart("t", []) == chart("t", [Curve("c", [])]) == ""


def test_a_long_curve_becomes_the_means_of_its_parts(monkeypatch):
    monkeypatch.setattr(svg, "MOST_POINTS", 4)
    assert thinned([(x, 2.0 * x) for x in range(8)]) == [(0.5, 1.0), (2.5, 5.0), (4.5, 9.0), (6.5, 13.0)]
    assert thinned([(1, 2.0)]) == [(1, 2.0)]


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (2.9, 11.2, [4, 6, 8, 10]),
        (0, 6e-4, [0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (1, 1_000_000, [200_000, 400_000, 600_000, 800_000, 1_000_000]),
    ],
)
def test_ticks_are_round(low, high, marks):
    assert ticks(low, high) == pytest.approx(marks)
