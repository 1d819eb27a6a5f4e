import pytest

from gpt2dist.monitoring.rank_times import NAMES, RankTimes


def exchanged(*seconds):
    """The ranks' own times, exchanged: what each of them has then."""
    ranks = [RankTimes(rank, len(seconds)) for rank in range(len(seconds))]
    for each, own in zip(ranks, seconds, strict=True):
        each.note(own)
    maxima = [max(numbers) for numbers in zip(*(each.packed() for each in ranks), strict=True)]
    assert len(maxima) == 2 * len(NAMES)
    for each in ranks:
        each.receive(maxima)
    return [each.take() for each in ranks]


def test_every_rank_has_the_smallest_and_the_largest_time_and_whose_it_is():
    first, *others = exchanged(
        {"step": 1.5, "save": 0.0}, {"step": 1.25, "save": 20.0}, {"step": 7.0, "save": 3.0}
    )
    assert first == {
        **{"time/step_min": 1.25, "time/step_max": 7.0, "time/step_max_rank": 2},
        **{"time/save_min": 0.0, "time/save_max": 20.0, "time/save_max_rank": 1},
    }
    assert others == [first, first]


def test_of_equal_times_the_lowest_rank_is_named():
    assert exchanged({"step": 1.0}, {"step": 1.0})[0]["time/step_max_rank"] == 0


def test_a_time_is_taken_and_sent_once():
    times = RankTimes(0, 2)
    times.note({"step": 1.0})
    times.receive(times.packed())
    assert times.take() and not times.take()
    assert times.packed() == [0] * (2 * len(NAMES))
    times.receive(times.packed())
    assert not times.take()


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 3e6, 1e9])
def test_packed_times_fit_into_64_bits_up_to_weeks(seconds):
    times = RankTimes(2**20 - 1, 2**20)
    times.note({"step": seconds})
    assert all(0 <= number < 2**62 for number in times.packed())


def test_a_single_rank_has_no_slowest_one():
    assert exchanged({"step": 1.0}) == [{}]
