import random

import pytest

from gpt2dist.run import sorted_search
from gpt2dist.run.sorted_search import Found, first_late


def items(draw, count):
    """Items of a file that begins at byte 7: where they start and stop, and their number. Some bytes are free."""
    found, place = [], 7
    for number in range(count):
        place += draw.choice([0, 0, 1, 30])
        found.append(Found(place, place + draw.choice([1, 5, 40]), number))
        place = found[-1].stop
    return found, place + draw.choice([0, 9])


@pytest.mark.parametrize("window", [1, 50, 10**6])
@pytest.mark.parametrize("count", [0, 1, 2, 30, 300])
def test_the_first_late_item_and_the_one_before_it(monkeypatch, window, count):
    monkeypatch.setattr(sorted_search, "WINDOW", window)
    known, end = items(random.Random(count), count)

    def item_from(start, limit):
        assert 7 <= start < limit <= end
        return next((each for each in known if start <= each.start < limit), None)

    for border in range(0, count + 2, 1 + count // 40):
        place, last = first_late(7, end, item_from, lambda number, border=border: number >= border)
        assert place == (known[border].start if border < count else end)
        assert last == (min(border, count) - 1 if border and count else None)


def test_what_is_near_the_end_is_found_as_fast_in_a_long_file(monkeypatch):
    monkeypatch.setattr(sorted_search, "WINDOW", 100)
    probes = {}
    for end in (10**4, 10**12):
        asked = []

        def item_from(start, limit, asked=asked):
            asked.append(start)
            return Found(start, start + 1, start)

        assert first_late(0, end, item_from, lambda place, end=end: place >= end - 50) == (end - 50, end - 51)
        probes[end] = [end - start for start in asked]
    assert probes[10**4] == probes[10**12] and len(asked) < 12
