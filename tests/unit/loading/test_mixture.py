import heapq
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2dist.loading import permutation
from gpt2dist.loading.mixture import (
    LARGEST_PERIOD,
    MOST_TURNS,
    Mixture,
    TableOfTurns,
    TreeOfTurns,
    rounded,
    schedule,
    share_error,
    whole_shares,
)
from gpt2dist.loading.permutation import Permutation

SHARES = [(1,), (1, 1), (7, 2, 1), (1, 999), (500, 300, 199), (97, 1, 1, 1), tuple(range(1, 30)), (1,) * 7]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((0.7, 0.2, 0.1), (7, 2, 1)),
        ((7.0, 2.0, 1.0), (7, 2, 1)),
        ((0.1, 0.3), (1, 3)),  # not what their binary fractions are in the ratio of
        ((70.0, 20.0), (7, 2)),
        ((1e-05, 1.0), (1, 100_000)),
        ((0.333, 0.667), (333, 667)),
        ((0.25,), (1,)),
        ((1e308, 1e308), (1, 1)),
        ((0.0113, 11), (113, 110_000)),
        ((123_456_789.0, 1_073_741_824.0), (123_456_789, 1_073_741_824)),
        ((1.0, float(LARGEST_PERIOD - 1)), (1, LARGEST_PERIOD - 1)),
    ],
)
def test_weights_are_the_decimals_that_they_are_written_as(weights, expected):
    assert whole_shares(weights) == expected


@pytest.mark.parametrize(
    "weights", [(123_456_789.0, 1.0), (1e12, 3e11, 77.0), (1 / 3, 1 / 7, 0.1), (5e-324, 1e308)]
)
def test_rounded_weights_have_a_short_period_and_about_the_same_ratio(weights):
    close = rounded(weights)
    assert sum(whole_shares(close)) < 10_100
    assert min(close) > 0
    total = sum(map(Fraction, weights))
    assert all(abs(a - b / total) <= 1e-4 for a, b in zip(close, map(Fraction, weights), strict=True))


WEIGHTS = st.lists(
    st.floats(5e-324, 1e308, allow_subnormal=True) | st.integers(1, 10**13).map(float), min_size=2, max_size=9
)


@given(WEIGHTS)
def test_other_weights_are_approximated_within_the_bound(weights):
    shares = whole_shares(weights)
    assert min(shares) >= 1 and sum(shares) <= LARGEST_PERIOD and shares == whole_shares(weights)
    exact = [Fraction(str(weight)) / sum(map(Fraction, map(str, weights))) for weight in weights]
    errors = [abs(Fraction(share, sum(shares)) - part) for share, part in zip(shares, exact, strict=True)]
    assert max(errors) <= Fraction(len(weights), 2**30)
    assert share_error(weights, shares) == float(max(errors))


def test_exact_weights_have_no_error():
    for weights in ((0.7, 0.2, 0.1), (0.0113, 11.0), (1e-5, 1.0), (3.0,)):
        assert share_error(weights, whole_shares(weights)) == 0
    assert 0 < share_error((1e-300, 1.0), whole_shares((1e-300, 1.0))) < 5e-10


LONG_SHARES = st.lists(st.integers(1, LARGEST_PERIOD // 20), min_size=2, max_size=20)


@given(LONG_SHARES, st.integers(0, 2**52), st.integers(1, 500))
def test_every_prefix_of_a_long_period_has_the_shares_to_within_the_bound(shares, begin, length):
    turns, period = TreeOfTurns(shares), sum(shares)
    assert turns.most_off == math.ceil(math.log2(len(shares))) / 2
    datasets, numbers = turns(np.arange(begin, begin + length))
    counts = np.array(turns.counts(begin))
    assert counts.sum() == begin
    for place, (dataset, number) in enumerate(zip(datasets.tolist(), numbers.tolist(), strict=True)):
        assert number == counts[dataset]  # counted from the start, though each sample is computed by itself
        counts[dataset] += 1
        off = [
            abs(int(count) - Fraction(share * (begin + place + 1), period))
            for count, share in zip(counts, shares, strict=True)
        ]
        assert max(off) <= turns.most_off
    assert counts.tolist() == turns.counts(begin + length)


def test_after_a_long_period_every_dataset_has_exactly_its_share():
    shares = (113, 110_000, 7, 1)
    turns = TreeOfTurns(shares)
    assert turns.counts(sum(shares)) == list(shares)
    datasets, numbers = turns(np.arange(sum(shares)))
    for dataset, share in enumerate(shares):
        assert numbers[datasets == dataset].tolist() == list(range(share))


def test_a_long_period_is_in_the_order_of_its_definition():
    """A change here makes every resumed run see other data: say so in the changelog."""
    turns = TreeOfTurns((1, 3, 5))  # the first against the other two, then the second against the third
    assert turns(np.arange(9))[0].tolist() == [2, 1, 2, 1, 0, 2, 2, 1, 2]
    far = np.array([10**15 + 7, 3, 2**62])
    assert [part.tolist() for part in turns(far)] == [
        [int(turns(np.array([sample]))[which][0]) for sample in far] for which in (0, 1)
    ]


def test_short_periods_keep_the_table():
    assert isinstance(Mixture([5, 5], (1, MOST_TURNS - 1), 0).turns, TableOfTurns)
    assert isinstance(Mixture([5, 5], (1, MOST_TURNS), 0).turns, TreeOfTurns)


def test_a_long_period_goes_through_epochs_of_each_dataset():
    mixture = Mixture([11, 40], (113, 110_000), seed=5)
    datasets, windows = mixture(np.arange(20_000))
    (small,) = np.nonzero(datasets == 0)
    assert len(small) == mixture.counts(20_000)[0] == round(20_000 * 113 / 110_113)
    first, second = Permutation(11, 5, 0)(np.arange(11)), Permutation(11, 5, 1)(np.arange(9))
    assert windows[small[:20]].tolist() == [*first, *second]
    together = mixture(np.arange(12, 24).reshape(3, 4))
    assert together[1].tolist() == windows[12:24].reshape(3, 4).tolist()


@pytest.mark.parametrize("shares", SHARES)
def test_no_prefix_is_a_whole_sample_off(shares):
    period = sum(shares)
    mixture = Mixture([5] * len(shares), shares, seed=0)
    datasets, _ = mixture(np.arange(3 * period))
    samples = np.arange(1, 3 * period + 1)
    for dataset, share in enumerate(shares):
        among = np.cumsum(datasets == dataset)
        assert np.abs(among * period - samples * share).max() < period  # in whole numbers
    for count in (0, 1, period - 1, period, 2 * period + period // 2):
        assert mixture.counts(count) == np.bincount(datasets[:count], minlength=len(shares)).tolist()


def test_the_schedule_never_changes_from_release_to_release():
    """A change here makes every resumed run see other data: say so in the changelog."""
    assert schedule((7, 2, 1)).tolist() == [0, 0, 1, 0, 0, 2, 0, 0, 1, 0]
    assert schedule((3, 5)).tolist() == [1, 0, 1, 0, 1, 1, 0, 1]
    assert schedule((4,)).tolist() == [0, 0, 0, 0]


def scheduled_by_definition(shares):
    """Tijdeman's algorithm, each dataset looked at in each turn."""
    period, slack = sum(shares), 2 * len(shares) - 2
    taken, turns = [0] * len(shares), []
    for turn in range(period):
        behind = [
            Fraction((turn + 1) * share, period) - count for share, count in zip(shares, taken, strict=True)
        ]
        due = [(count + 1 - Fraction(1, slack)) / share for share, count in zip(shares, taken, strict=True)]
        chosen = min((due[d], d) for d, lag in enumerate(behind) if lag * slack >= 1)[1]
        taken[chosen] += 1
        turns.append(chosen)
    return turns


@given(st.lists(st.integers(1, 40), min_size=2, max_size=12))
def test_the_schedule_is_that_of_its_definition(shares):
    assert schedule(shares).tolist() == scheduled_by_definition(shares)


def test_a_dataset_is_considered_once_for_each_of_its_turns(monkeypatch):
    """A look at each dataset in each turn would take seconds at the start of a blend of hundreds."""
    pushed, push = [], heapq.heappush
    monkeypatch.setattr(
        "gpt2dist.loading.mixture.heapq.heappush", lambda heap, item: pushed.append(item) or push(heap, item)
    )
    shares = np.random.default_rng(0).integers(1, 9, 500).tolist()
    turns = schedule(shares)
    assert len(pushed) == len(turns) == sum(shares)


def by_definition(mixture: Mixture, seed: int, samples: int) -> list[tuple[int, int]]:
    """Dataset and window of each sample, counted one by one."""
    turns = schedule(mixture.shares).tolist()
    drawn = [0] * len(mixture.windows)
    out = []
    for sample in range(samples):
        dataset = turns[sample % len(turns)]
        epoch, place = divmod(drawn[dataset], mixture.windows[dataset])
        key = (seed, epoch, dataset) if dataset else (seed, epoch)
        window = Permutation(mixture.windows[dataset], *key)(np.array([place]))[0]
        out.append((dataset, int(window)))
        drawn[dataset] += 1
    return out


def test_each_dataset_goes_through_epochs_of_its_own():
    mixture = Mixture([11, 40, 3], (7, 2, 1), seed=5)
    expected = by_definition(mixture, 5, 300)
    datasets, windows = mixture(np.arange(300))
    assert list(zip(datasets.tolist(), windows.tolist(), strict=True)) == expected
    assert mixture.epochs(300) == [210 / 11, 60 / 40, 30 / 3]


def test_hundreds_of_datasets_go_through_epochs_of_their_own():
    draw = np.random.default_rng(2)
    windows = [1, 2, 1023, 1024, *draw.integers(1, 40, 200).tolist()]
    mixture = Mixture(windows, draw.integers(1, 9, len(windows)).tolist(), seed=5)
    datasets, found = mixture(np.arange(4000))
    assert list(zip(datasets.tolist(), found.tolist(), strict=True)) == by_definition(mixture, 5, 4000)


def test_more_datasets_do_not_need_more_array_operations(monkeypatch):
    passes = []
    one_pass = permutation._pass
    monkeypatch.setattr(permutation, "_pass", lambda *args: passes.append(len(args[0])) or one_pass(*args))
    for datasets in (2, 500):
        passes.clear()
        mixture = Mixture([1_000_003] * datasets, range(1, datasets + 1), seed=0)
        mixture(np.arange(4096))
        # An index that falls outside is mapped again: at most one in a thousand here.
        assert passes[0] == 4096 and sum(passes[1:]) < 40 and len(passes) < 5
    passes.clear()
    Mixture([1000, 2000] * 250, [1] * 500, seed=0)(np.arange(4096))
    assert sorted(passes)[-2:] == [2048, 2048]  # small datasets have other rounds than large ones
    assert len(passes) < 12


def test_no_samples():
    assert [part.shape for part in Mixture([11, 40], (7, 2), seed=5)(np.zeros((0, 3), np.int64))] == [(0, 3)] * 2


def test_a_sample_is_computed_from_its_number_alone():
    mixture = Mixture([11, 40, 3], (7, 2, 1), seed=5)
    together = np.stack(mixture(np.arange(300)), axis=-1)
    samples = np.array([299, 0, 17, 150, 17])
    assert np.stack(mixture(samples), axis=-1).tolist() == together[samples].tolist()
    one_by_one = [np.stack(mixture(np.array([sample])), axis=-1)[0].tolist() for sample in samples]
    assert one_by_one == together[samples].tolist()
    assert mixture(np.arange(12).reshape(3, 4))[1].tolist() == together[:12, 1].reshape(3, 4).tolist()


def test_one_dataset_is_in_the_order_of_its_permutation():
    datasets, windows = Mixture([20], (1,), seed=3)(np.arange(60))
    assert not datasets.any()
    for epoch in range(3):
        expected = Permutation(20, 3, epoch)(np.arange(20))
        assert windows[20 * epoch : 20 * (epoch + 1)].tolist() == expected.tolist()
    assert windows[:20].tolist() != windows[20:40].tolist()


def test_datasets_of_one_size_are_not_in_the_same_order():
    mixture = Mixture([50, 50, 50], (1, 1, 1), seed=3)
    datasets, windows = mixture(np.arange(150))
    orders = {tuple(windows[datasets == dataset].tolist()) for dataset in range(3)}
    assert len(orders) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_numbers_beyond_64_bit_floats_are_exact():
    shares, windows = (7, 2, 1), (10**12, 10**9, 3)
    mixture = Mixture(windows, shares, seed=1)
    period = 2**53 // 10 + 1
    samples = np.arange(10 * period, 10 * period + 10)
    datasets, found = mixture(samples)
    turns = schedule(shares).tolist()
    for place, (dataset, window) in enumerate(zip(datasets.tolist(), found.tolist(), strict=True)):
        assert dataset == turns[place]
        epoch, rest = divmod(period * shares[dataset] + turns[:place].count(dataset), windows[dataset])
        key = (1, epoch, dataset) if dataset else (1, epoch)
        assert window == Permutation(windows[dataset], *key)(np.array([rest]))[0]
