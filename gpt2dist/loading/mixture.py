"""Weighted blends of datasets: which window of which dataset is the s-th sample of a run.

The datasets take turns by a schedule of one period, which is as long as their shares in whole numbers (0.7, 0.2
and 0.1 are 7, 2 and 1: ten samples) and repeats. The k-th turn of a dataset of n windows is window P(k mod n) of
its epoch k div n, where P is the keyed permutation of (seed, epoch). So a sample is computed from its number, in
memory that does not depend on the size of the datasets, and each dataset has epochs of its own.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gpt2dist.loading.permutation import Permutation

MOST_TURNS = 100_000
"""Longest period of a blend: what is held in memory of it. Five decimals of weights that add up to 1."""
_DECIMALS = 4


def whole_shares(weights: Sequence[float]) -> tuple[int, ...]:
    """The smallest whole numbers in the ratio of the weights, taken as the decimal fractions that they print as.

    Args:
        weights: Each finite and above 0.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    common = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * common) for weight in exact]
    return tuple(share // math.gcd(*whole) for share in whole)


def rounded(weights: Sequence[float]) -> list[float]:
    """Weights in about the same ratio that add up to about 1, with so few decimals that their period is short."""
    total = sum(map(Fraction, weights))
    return [max(round(float(weight / total), _DECIMALS), 10**-_DECIMALS) for weight in map(Fraction, weights)]


def schedule(shares: Sequence[int]) -> NDArray[np.int64]:
    """Which dataset has each of the sum(shares) turns of a period.

    Tijdeman 1980, "The chairman assignment problem": of those among the k datasets that are at least 1/(2k − 2)
    sample behind their share, the one whose next sample is due first. Among the first s samples, of any number of
    periods, each dataset then has its share of s but for at most 1 − 1/(2k − 2) samples.
    """
    period, slack = sum(shares), 2 * len(shares) - 2
    if not slack:
        return np.zeros(period, np.int64)
    # Due: (samples so far + 1 − 1/slack) / share, times what makes all these fractions whole numbers.
    common = math.lcm(*shares)
    step = [slack * (common // share) for share in shares]
    due = [(slack - 1) * (common // share) for share in shares]
    behind = [0] * len(shares)  # × period
    turns = np.empty(period, np.int64)
    for turn in range(period):
        behind = [lag + share for lag, share in zip(behind, shares, strict=True)]
        chosen = min((due[d], d) for d, lag in enumerate(behind) if slack * lag >= period)[1]
        behind[chosen] -= period
        due[chosen] += step[chosen]
        turns[turn] = chosen
    return turns


class Mixture:
    """Which window is the s-th sample of a run.

    Args:
        windows: Windows per epoch of each dataset.
        shares: Samples of each dataset per period, as `whole_shares` gives them; (1,) for a single one.
        seed: Seed of the run.
    """

    def __init__(self, windows: Sequence[int], shares: Sequence[int], seed: int):
        self.windows = tuple(windows)
        self.shares = tuple(shares)
        self._seed = seed
        self._turns_per_period = np.array(shares, np.int64)
        self._turns = schedule(shares)
        # Turns that the same dataset had earlier in the period.
        self._earlier = np.empty_like(self._turns)
        for dataset, share in enumerate(shares):
            self._earlier[self._turns == dataset] = np.arange(share)

    def __call__(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Maps sample numbers (int64, any size and shape) to dataset numbers and their window numbers."""
        periods, places = np.divmod(samples, len(self._turns))
        datasets = self._turns[places]
        numbers = periods * self._turns_per_period[datasets] + self._earlier[places]
        windows = np.empty_like(numbers)
        for dataset in range(len(self.windows)):
            mine = datasets == dataset
            windows[mine] = self._order(dataset, numbers[mine])
        return datasets, windows

    def counts(self, samples: int) -> list[int]:
        """How many of the first `samples` samples come from each dataset."""
        periods, rest = divmod(samples, len(self._turns))
        begun = np.bincount(self._turns[:rest], minlength=len(self.shares)).tolist()
        return [periods * share + more for share, more in zip(self.shares, begun, strict=True)]

    def epochs(self, samples: int) -> list[float]:
        """Passes over each dataset that the first `samples` samples make."""
        return [count / windows for count, windows in zip(self.counts(samples), self.windows, strict=True)]

    def _order(self, dataset: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Maps the turns of one dataset to its windows."""
        windows = self.windows[dataset]
        epochs, places = np.divmod(numbers, windows)
        out = np.empty_like(places)
        for epoch in np.unique(epochs):  # one, or two at the border of an epoch
            here = epochs == epoch
            # The first dataset is in the order that it has alone; the others must not share it.
            key = (self._seed, int(epoch), dataset) if dataset else (self._seed, int(epoch))
            out[here] = _permutation(windows, *key)(places[here])
        return out


@lru_cache(maxsize=256)
def _permutation(n: int, *key: int) -> Permutation:
    return Permutation(n, *key)
