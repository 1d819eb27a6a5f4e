"""Weighted blends of datasets: which window of which dataset is the s-th sample of a run.

The datasets take turns. Their shares of the turns are whole numbers (0.7, 0.2 and 0.1 become 7, 2 and 1), whose
sum is the period: after that many samples, every dataset has exactly its share. A period of up to `MOST_TURNS` is
a table that repeats (`TableOfTurns`); the turns of a longer one are computed for each sample (`TreeOfTurns`).

The k-th turn of a dataset of n windows is window P(k mod n) of its epoch k div n, where P is the keyed
permutation of (seed, epoch). A sample is thus computed from its number alone, in memory that does not depend on
the size of the datasets, and each dataset has its own epochs.
"""

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2dist.loading.permutation import Permutation, permute_each

MOST_TURNS = 100_000
"""Longest period of a blend that is held in memory. It allows five decimals in weights that add up to 1."""
LARGEST_PERIOD = 2**31 - 1
"""Longest period of a blend, so that products of shares fit into int64."""
_DECIMALS = 4


def whole_shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Return whole numbers in the ratio of the weights, read as the decimal fractions they print as.

    They are the smallest such numbers if those add up to at most `LARGEST_PERIOD`. Otherwise the ratio is
    approximated: no share of k datasets differs from its weight by more than k / 2³⁰ of all samples.

    Args:
        weights: Weights, each finite and above 0.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    common = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * common) for weight in exact]
    divisor, total = math.gcd(*whole), sum(whole)
    if total // divisor <= LARGEST_PERIOD:
        return tuple(share // divisor for share in whole)
    room = LARGEST_PERIOD - len(whole)  # rounding up adds less than 1 to each
    return tuple(max(1, (2 * share * room + total) // (2 * total)) for share in whole)


def share_error(weights: Sequence[float], shares: Sequence[int]) -> float:
    """Return the largest difference between a share and its weight, as a fraction of all samples; 0 if exact."""
    exact = [Fraction(str(weight)) for weight in weights]
    return float(
        max(
            abs(Fraction(share, sum(shares)) - weight / sum(exact))
            for share, weight in zip(shares, exact, strict=True)
        )
    )


def rounded(weights: Sequence[float]) -> list[float]:
    """Return weights in about the same ratio that add up to about 1, rounded so that their period is short."""
    total = sum(map(Fraction, weights))
    return [max(round(float(weight / total), _DECIMALS), 10**-_DECIMALS) for weight in map(Fraction, weights)]


def schedule(shares: Sequence[int]) -> NDArray[np.int64]:
    """Return the dataset of each turn of a period: int64 [sum(shares)].

    This is the algorithm of Tijdeman 1980, "The chairman assignment problem". Each turn considers those of the k
    datasets that are at least 1/(2k − 2) sample behind their share, and chooses the one whose next sample is due
    first. For any s, the number of samples of a dataset among the first s differs from its share of s by at most
    1 − 1/(2k − 2). It takes O(n log k) for a period of n.
    """
    period, slack = sum(shares), 2 * len(shares) - 2
    if not slack:
        return np.zeros(period, np.int64)
    # due = (samples so far + 1 − 1/slack) / share, multiplied by slack · common to make it a whole number.
    common = math.lcm(*shares)
    step = [slack * (common // share) for share in shares]
    begins: list[list[int]] = [[] for _ in range(period)]  # turn → datasets that are considered from it on

    def wait(dataset: int, samples: int, earliest: int) -> None:
        """Let a dataset with so many samples be considered from the turn on in which it is far enough behind."""
        turn = max(earliest, -(-period * (1 + slack * samples) // (slack * shares[dataset])) - 1)
        if turn < period:
            begins[turn].append(dataset)

    considered: list[tuple[int, int]] = []
    due = [(slack - 1) * (common // share) for share in shares]
    samples = [0] * len(shares)
    for dataset in range(len(shares)):
        wait(dataset, 0, 0)
    turns = np.empty(period, np.int64)
    for turn in range(period):
        for dataset in begins[turn]:
            heapq.heappush(considered, (due[dataset], dataset))
        _, chosen = heapq.heappop(considered)
        turns[turn] = chosen
        due[chosen] += step[chosen]
        samples[chosen] += 1
        wait(chosen, samples[chosen], turn + 1)
    return turns


class Turns(Protocol):
    """Order in which the datasets take turns."""

    @property
    def most_off(self) -> float:
        """Maximum difference, in samples, between a dataset's part of the first s samples and its share of s."""

    def __call__(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Map sample numbers, int64 [n], to datasets and to the number of earlier turns of the same dataset."""

    def counts(self, samples: int) -> list[int]:
        """Return how many of the first `samples` samples come from each dataset."""


class TableOfTurns:
    """Turns by a repeating table, the `schedule` of the shares."""

    def __init__(self, shares: Sequence[int]):
        self._shares = np.array(shares, np.int64)
        self._turns = schedule(shares)
        # For each turn, the number of earlier turns of the same dataset in the period.
        self._earlier = np.empty_like(self._turns)
        for dataset, share in enumerate(shares):
            self._earlier[self._turns == dataset] = np.arange(share)

    @property
    def most_off(self) -> float:
        """As in `Turns`."""
        return 1 - 1 / (2 * len(self._shares) - 2) if len(self._shares) > 1 else 0.0

    def __call__(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As in `Turns`."""
        periods, places = np.divmod(samples, len(self._turns))
        datasets = self._turns[places]
        return datasets, periods * self._shares[datasets] + self._earlier[places]

    def counts(self, samples: int) -> list[int]:
        """As in `Turns`."""
        periods, rest = divmod(samples, len(self._turns))
        begun = np.bincount(self._turns[:rest], minlength=len(self._shares)).tolist()
        return [periods * share + more for share, more in zip(self._shares.tolist(), begun, strict=True)]


class TreeOfTurns:
    """Turns that are computed, for shares of any sum up to `LARGEST_PERIOD`.

    The datasets are split in half repeatedly, down to single ones. Of the first s samples of a group, its
    left half gets its share of s, rounded to the nearest whole number, and the right half the rest. Each
    split adds at most half a sample to the difference between a dataset's part and its share.
    """

    def __init__(self, shares: Sequence[int]):
        self._sums = [0, *np.cumsum(shares).tolist()]

    @property
    def most_off(self) -> float:
        """As in `Turns`."""
        return (len(self._sums) - 2).bit_length() / 2

    def __call__(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As in `Turns`."""
        datasets, numbers = np.empty_like(samples), np.empty_like(samples)
        groups = [(0, len(self._sums) - 1, np.arange(samples.size), samples)]
        while groups:
            first, last, places, turns = groups.pop()
            if last - first == 1:
                datasets[places], numbers[places] = first, turns
                continue
            middle, before = (first + last) // 2, self._to_the_left(first, last, turns)
            left = self._to_the_left(first, last, turns + 1) > before
            groups.append((first, middle, places[left], before[left]))
            groups.append((middle, last, places[~left], (turns - before)[~left]))
        return datasets, numbers

    def counts(self, samples: int) -> list[int]:
        """As in `Turns`."""
        return self._counts(0, len(self._sums) - 1, samples)

    def _counts(self, first: int, last: int, samples: int) -> list[int]:
        if last - first == 1:
            return [samples]
        middle, left = (first + last) // 2, self._to_the_left(first, last, samples)
        return self._counts(first, middle, left) + self._counts(middle, last, samples - left)

    def _to_the_left(self, first: int, last: int, turns: Any) -> Any:
        """Return how many of the first `turns` turns of the datasets first … last − 1 go to their left half."""
        left = self._sums[(first + last) // 2] - self._sums[first]
        both = self._sums[last] - self._sums[first]
        periods, rest = divmod(turns, both)  # so that no product exceeds int64
        return periods * left + (rest * left + both // 2) // both


class Mixture:
    """Mapping from the samples of a run to windows.

    Args:
        windows: Windows per epoch of each dataset.
        shares: Samples of each dataset per period, as `whole_shares` returns them; (1,) for a single dataset.
        seed: Seed of the run.

    Attributes:
        turns: Order in which the datasets take turns.
    """

    def __init__(self, windows: Sequence[int], shares: Sequence[int], seed: int):
        self.windows = tuple(windows)
        self.shares = tuple(shares)
        self._windows = np.array(self.windows, np.int64)
        self._seed = seed
        # Earlier versions had only the table. Their runs need it to resume in the same order.
        self.turns: Turns = TableOfTurns(shares) if sum(shares) <= MOST_TURNS else TreeOfTurns(shares)

    def __call__(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Map sample numbers (int64, any size and shape) to dataset numbers and window numbers."""
        datasets, numbers = self.turns(samples.ravel())
        epochs, places = np.divmod(numbers, self._windows[datasets])
        # Samples of one dataset and epoch share a permutation. All are found with one sort, and mapped together.
        order = np.lexsort((epochs, datasets))
        differ = (np.diff(datasets[order]) != 0) | (np.diff(epochs[order]) != 0)
        which = np.empty(len(order), np.intp)
        which[order] = np.append(0, np.cumsum(differ))[: len(order)]
        first = order[np.append(0, np.flatnonzero(differ) + 1)[: len(order)]]
        pairs = zip(datasets[first].tolist(), epochs[first].tolist(), strict=True)
        windows = permute_each([self._permutation(*pair) for pair in pairs], which, places)
        return datasets.reshape(samples.shape), windows.reshape(samples.shape)

    def counts(self, samples: int) -> list[int]:
        """Return how many of the first `samples` samples come from each dataset."""
        return self.turns.counts(samples)

    def epochs(self, samples: int) -> list[float]:
        """Return the number of passes over each dataset that the first `samples` samples make."""
        return [count / windows for count, windows in zip(self.counts(samples), self.windows, strict=True)]

    def _permutation(self, dataset: int, epoch: int) -> Permutation:
        """Return the order of the windows of a dataset in one of its epochs."""
        # The first dataset keeps the order that it has without a blend. The others must not share that order.
        key = (self._seed, epoch, dataset) if dataset else (self._seed, epoch)
        return _permutation(self.windows[dataset], *key)


@lru_cache(maxsize=4096)
def _permutation(n: int, *key: int) -> Permutation:
    return Permutation(n, *key)
