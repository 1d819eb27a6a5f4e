"""Weighted blends of datasets: which window of which dataset is the s-th sample of a run.

The datasets take turns in a repeating schedule. Its period is the sum of their shares in whole numbers (0.7, 0.2
and 0.1 become 7, 2 and 1: ten samples). The k-th turn of a dataset of n windows is window P(k mod n) of its epoch
k div n, where P is the keyed permutation of (seed, epoch). A sample is thus computed from its number alone, in
memory that does not depend on the size of the datasets, and each dataset has its own epochs.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gpt2dist.loading.permutation import Permutation

MOST_TURNS = 100_000
"""Longest period of a blend, which is held in memory. It allows five decimals in weights that add up to 1."""
_DECIMALS = 4


def whole_shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Return the smallest whole numbers in the ratio of the weights, read as the decimal fractions they print as.

    Args:
        weights: Weights, each finite and above 0.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    common = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * common) for weight in exact]
    return tuple(share // math.gcd(*whole) for share in whole)


def rounded(weights: Sequence[float]) -> list[float]:
    """Return weights in about the same ratio that add up to about 1, rounded so that their period is short."""
    total = sum(map(Fraction, weights))
    return [max(round(float(weight / total), _DECIMALS), 10**-_DECIMALS) for weight in map(Fraction, weights)]


def schedule(shares: Sequence[int]) -> NDArray[np.int64]:
    """Return the dataset of each turn of a period: int64 [sum(shares)].

    This is the algorithm of Tijdeman 1980, "The chairman assignment problem". Each turn considers those of the k
    datasets that are at least 1/(2k − 2) sample behind their share, and chooses the one whose next sample is due
    first. For any s, the number of samples of a dataset among the first s differs from its share of s by at most
    1 − 1/(2k − 2).
    """
    period, slack = sum(shares), 2 * len(shares) - 2
    if not slack:
        return np.zeros(period, np.int64)
    # due = (samples so far + 1 − 1/slack) / share, multiplied by slack · common to make it a whole number.
    common = math.lcm(*shares)
    step = [slack * (common // share) for share in shares]
    due = [(slack - 1) * (common // share) for share in shares]
    behind = [0] * len(shares)  # in samples, multiplied by the period
    turns = np.empty(period, np.int64)
    for turn in range(period):
        behind = [lag + share for lag, share in zip(behind, shares, strict=True)]
        chosen = min((due[d], d) for d, lag in enumerate(behind) if slack * lag >= period)[1]
        behind[chosen] -= period
        due[chosen] += step[chosen]
        turns[turn] = chosen
    return turns


class Mixture:
    """Mapping from the samples of a run to windows.

    Args:
        windows: Windows per epoch of each dataset.
        shares: Samples of each dataset per period, as `whole_shares` returns them; (1,) for a single dataset.
        seed: Seed of the run.
    """

    def __init__(self, windows: Sequence[int], shares: Sequence[int], seed: int):
        self.windows = tuple(windows)
        self.shares = tuple(shares)
        self._seed = seed
        self._turns_per_period = np.array(shares, np.int64)
        self._turns = schedule(shares)
        # For each turn, the number of earlier turns of the same dataset in the period.
        self._earlier = np.empty_like(self._turns)
        for dataset, share in enumerate(shares):
            self._earlier[self._turns == dataset] = np.arange(share)

    def __call__(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Map sample numbers (int64, any size and shape) to dataset numbers and window numbers."""
        periods, places = np.divmod(samples, len(self._turns))
        datasets = self._turns[places]
        numbers = periods * self._turns_per_period[datasets] + self._earlier[places]
        windows = np.empty_like(numbers)
        for dataset in range(len(self.windows)):
            mine = datasets == dataset
            windows[mine] = self._order(dataset, numbers[mine])
        return datasets, windows

    def counts(self, samples: int) -> list[int]:
        """Return how many of the first `samples` samples come from each dataset."""
        periods, rest = divmod(samples, len(self._turns))
        begun = np.bincount(self._turns[:rest], minlength=len(self.shares)).tolist()
        return [periods * share + more for share, more in zip(self.shares, begun, strict=True)]

    def epochs(self, samples: int) -> list[float]:
        """Return the number of passes over each dataset that the first `samples` samples make."""
        return [count / windows for count, windows in zip(self.counts(samples), self.windows, strict=True)]

    def _order(self, dataset: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map the turns of one dataset to its windows."""
        windows = self.windows[dataset]
        epochs, places = np.divmod(numbers, windows)
        out = np.empty_like(places)
        for epoch in np.unique(epochs):  # usually one, or two at an epoch boundary
            here = epochs == epoch
            # The first dataset keeps the order that it has without a blend. The others must not share that order.
            key = (self._seed, int(epoch), dataset) if dataset else (self._seed, int(epoch))
            out[here] = _permutation(windows, *key)(places[here])
        return out


@lru_cache(maxsize=256)
def _permutation(n: int, *key: int) -> Permutation:
    return Permutation(n, *key)
