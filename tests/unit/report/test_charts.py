import json
import re

import pytest

from gpt2dist.report.charts import Axis, Chart, Curve, short, ticks


def lines(page, kind):
    return re.findall(rf'<polyline class="{kind} s\d+" points="([^"]*)"', page)


def test_a_point_lies_where_its_numbers_say():
    page = Chart("a < b", [Curve("x & y", 3, [(0, 1.0), (50, 2.0), (100, 5.0)])]).html("c")
    assert "a &lt; b" in page and "x &amp; y" in page
    axis = Axis.of([1.0, 2.0, 5.0], room=0.04)
    expected = [f"{x:.1f},{(1 - axis.place(y)) * 300:.1f}" for x, y in ((0, 1.0), (500, 2.0), (1000, 5.0))]
    assert lines(page, "line") == [" ".join(expected)]


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_a_single_point_is_a_dot_in_the_middle(value):
    assert lines(Chart("t", [Curve("c", 0, [(7, value)])]).html("c"), "dot") == ["500.0,150.0 500.0,150.0"]


def test_nothing_to_draw_is_no_chart():
    assert Chart("t", []).html("c") == Chart("t", [Curve("c", 0, [])]).html("c") == ""


def test_views_over_tokens_and_of_logarithms():
    curve = Curve("c", 0, [(1, 1.0), (2, 100.0)])
    page = Chart("t", [curve], [[(0, 0.0), (2, 20.0)]], log=True).html("c")
    assert re.findall(r"<label[^>]*>([^<]*)", page) == ["steps", "steps, log", "tokens", "tokens, log"]
    (data,) = json.loads(re.search(r"<script[^>]*>(.*)</script>", page)[1])
    assert data["tokens"] == [10, 20]
    below_zero = Chart("t", [Curve("c", 0, [(1, -1.0), (2, 1.0)])], log=True).html("c")
    assert "log" not in below_zero


def test_a_name_cannot_end_the_script():
    assert "</script><b>" not in Chart("t", [Curve("</script><b>", 0, [(1, 1.0)])]).html("c")


def test_numbers_of_an_axis_are_short():
    assert [short(each) for each in (0, 3.5, 20_000, 1.5e9, 3e-4, 1e-3)] == [
        "0",
        "3.5",
        "20 k",
        "1.5 G",
        "3·10⁻⁴",
        "10⁻³",
    ]


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (2.9, 11.2, [4, 6, 8, 10]),
        (0, 6e-4, [0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round(low, high, marks):
    assert ticks(low, high) == pytest.approx(marks)
