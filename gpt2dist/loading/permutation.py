"""The data order as a function: a keyed permutation of range(n) that is computed, not stored.

It is a Feistel network on the grid Z_a × Z_b with a·b ≥ n. An index that falls outside range(n) is mapped again
until it lands inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). Rounds and key schedule
are implemented here and versioned, since NumPy's random streams may change.
"""

import hashlib
import math

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
        if indices.size and (indices.min() < 0 or indices.max() >= self.n):
            raise ValueError(f"indices must lie in [0, {self.n})")
        out = self._pass(indices.astype(np.uint64))
        outside = out >= np.uint64(self.n)
        while outside.any():
            out[outside] = self._pass(out[outside])
            outside = out >= np.uint64(self.n)
        return out.astype(np.int64)

    def _pass(self, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        # All operands must be uint64: NumPy promotes a mix of uint64 and int64 to float64.
        a, b = np.uint64(self._a), np.uint64(self._b)
        left, right = x // b, x % b
        for round_, key in enumerate(self._keys):
            if round_ % 2 == 0:
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
