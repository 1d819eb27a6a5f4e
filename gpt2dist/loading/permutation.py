"""The data order as a function: a keyed permutation of range(n) that is computed, not stored.

It is a Feistel network on the grid Z_a × Z_b with a·b ≥ n. An index that falls outside range(n) is mapped again
until it lands inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). Rounds and key schedule
are implemented here and versioned, since NumPy's random streams may change.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

VERSION = 1
ROUNDS = 6
ROUNDS_SMALL = 12
SMALL = 1 << 10
"""Size n below which six rounds leave visible order."""


class Permutation:
    """Bijection of range(n), identical on every machine for the same (n, key).

    Args:
        n: Size of the domain, 1 ≤ n < 2^62.
        key: Values that select the permutation, such as (seed, epoch).

    Raises:
        ValueError: n is out of range.
    """

    def __init__(self, n: int, *key: int | str):
        if not 1 <= n < 1 << 62:
            raise ValueError(f"a permutation needs 1 ≤ n < 2^62, not {n}")
        self.n = n
        self._a = math.isqrt(n - 1) + 1
        self._b = -(-n // self._a)
        rounds = ROUNDS if n >= SMALL else ROUNDS_SMALL
        text = f"gpt2dist-permutation-{VERSION}:{n}:" + ":".join(map(str, key))
        stream = hashlib.shake_256(text.encode()).digest(8 * rounds)
        self._keys = np.frombuffer(stream, dtype="<u8")

    def __call__(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Map indices in [0, n), of any shape, to int64 indices in [0, n)."""
        indices = np.asarray(indices)
        x = indices.ravel()
        n, a, b = (np.broadcast_to(np.uint64(size), x.shape) for size in (self.n, self._a, self._b))
        keys = np.broadcast_to(self._keys[:, None], (len(self._keys), x.size))
        return _permute(x, n, a, b, keys).reshape(indices.shape)


def permute_each(
    permutations: Sequence[Permutation], which: NDArray[np.integer], indices: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Map each index by a permutation of its own, in the same number of array operations for any number of them.

    Args:
        permutations: The permutations.
        which: Integers [n], the place of each index's permutation in `permutations`.
        indices: Integers [n], each below the n of its permutation.

    Returns:
        int64 [n], `permutations[which[i]](indices[i])` for each i.

    Raises:
        ValueError: An index is out of the range of its permutation.
    """
    if len(permutations) == 1:
        return permutations[0](indices)
    out = np.empty(len(indices), np.int64)
    rounds = np.array([len(each._keys) for each in permutations])
    for number in set(rounds.tolist()):
        chosen = np.flatnonzero(rounds == number)
        here = np.flatnonzero(rounds[which] == number)
        place = np.searchsorted(chosen, which[here])
        alike = [permutations[each] for each in chosen.tolist()]
        n, a, b = np.array([(each.n, each._a, each._b) for each in alike], np.uint64).T[:, place]
        keys = np.array([each._keys for each in alike]).T[:, place]
        out[here] = _permute(indices[here], n, a, b, keys)
    return out


def _permute(
    indices: NDArray[np.integer],
    n: NDArray[np.uint64],
    a: NDArray[np.uint64],
    b: NDArray[np.uint64],
    keys: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Map indices [k] by permutations whose sizes [k] and keys [rounds, k] are given for each index."""
    # A negative index would become a large one.
    if indices.size and (indices.min() < 0 or (indices.astype(np.uint64) >= n).any()):
        raise ValueError(f"indices must lie in [0, {n.max()})")
    out = _pass(indices.astype(np.uint64), a, b, keys)
    outside = np.flatnonzero(out >= n)
    while outside.size:
        out[outside] = _pass(out[outside], a[outside], b[outside], keys[:, outside])
        outside = outside[out[outside] >= n[outside]]
    return out.astype(np.int64)


def _pass(
    x: NDArray[np.uint64], a: NDArray[np.uint64], b: NDArray[np.uint64], keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    # All operands must be uint64: NumPy promotes a mix of uint64 and int64 to float64.
    left, right = x // b, x % b
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = (left + _mix(right ^ key) % a) % a
        else:
            right = (right + _mix(left ^ key) % b) % b
    return left * b + right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finaliser of splitmix64 (Steele, Lea and Flood 2014); it wraps around modulo 2^64 by design."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
