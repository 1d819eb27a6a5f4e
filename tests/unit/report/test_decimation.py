import math

import pytest

from gpt2dist.report.decimation import Decimated, interpolated


def test_a_short_series_is_kept_as_it_is():
    series = Decimated(4)
    for step in range(8):
        series.add(step, 2.0 * step)
    assert series.points() == [(step, 2.0 * step) for step in range(8)] and series.smoothed() == []


def test_a_long_series_stays_small_and_keeps_its_spikes():
    series = Decimated(100)
    for step in range(1, 50_001):
        series.add(step, {12_345: 99.0, 40_001: -5.0}.get(step, math.sin(step)))
    points = series.points()
    assert len(points) <= 400 and points == sorted(points)
    assert (12_345, 99.0) in points and (40_001, -5.0) in points


def test_a_smoothed_series_has_the_mean():
    series = Decimated(100)
    for step in range(10_000):
        series.add(step, step % 2)
    assert [value for _, value in series.smoothed()] == pytest.approx([0.5] * len(series.smoothed()))


def test_between_and_beyond_points():
    assert interpolated([(0, 0.0), (10, 100.0)], [5, 20]) == [50.0, 200.0]
    assert interpolated([(4, 8.0)], [2, 6]) == [4.0, 12.0]
