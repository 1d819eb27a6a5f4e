import hashlib
import math

import numpy as np
import pytest

from gpt2dist.loading import permutation
from gpt2dist.loading.permutation import Permutation, permute_each

N = 3_000_001
SIZES = [
    *range(1, 301),
    *(2**k + d for k in range(9, 17) for d in (-1, 0, 1)),
    *(side**2 + d for side in (*range(18, 41), 99, 181, 256, 300, 317) for d in (-1, 0, 1)),
    *(side * (side + 1) + d for side in (31, 32, 99, 255, 256) for d in (-1, 0, 1)),
    99_991,
]
LARGE_SIZES = [n + d for n in (2**20, 2**21, 1000**2, 1449**2) for d in (-1, 0, 1)]


def whole(n: int, *key: int | str) -> np.ndarray:
    return Permutation(n, *key)(np.arange(n))


def reference(n: int, index: int, *key: int | str) -> int:
    """The permutation again, in Python's unbounded integers and one index at a time."""
    word = (1 << 64) - 1

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & word
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & word
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & word
        return x ^ (x >> 31)

    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    rounds = 6 if n >= 1024 else 12
    text = ":".join(["gpt2dist-permutation-1", str(n), *map(str, key)])
    stream = hashlib.shake_256(text.encode()).digest(8 * rounds)
    keys = [int.from_bytes(stream[8 * j : 8 * j + 8], "little") for j in range(rounds)]
    while True:
        left, right = divmod(index, b)
        for j, round_key in enumerate(keys):
            if j % 2:
                right = (right + mix(left ^ round_key)) % b
            else:
                left = (left + mix(right ^ round_key)) % a
        index = left * b + right
        if index < n:
            return index


@pytest.mark.parametrize("seed", [0, 1337])
def test_every_index_comes_exactly_once(seed):
    for n in SIZES:
        assert np.array_equal(np.sort(whole(n, seed, 0)), np.arange(n)), n


@pytest.mark.parametrize("n", LARGE_SIZES)
def test_every_index_of_a_large_domain_comes_exactly_once(n):
    seen = np.zeros(n, bool)
    seen[whole(n, 5, 1)] = True
    assert seen.all()


@pytest.mark.parametrize("n", [1, 2, 10, 1023, 1024, 1_000_003, 2**40, 2**61, 2**62 - 1])
def test_equals_the_same_arithmetic_in_unbounded_integers(n):
    indices = np.unique(np.array([0, 1, 2, n // 3, n // 2, n - 2, n - 1]) % n)
    assert Permutation(n, 7, 3)(indices).tolist() == [reference(n, int(i), 7, 3) for i in indices]


def test_the_order_never_changes_from_release_to_release():
    """A change here makes every resumed run see other data: raise VERSION and say so in the changelog."""
    assert whole(10, 1337, 0).tolist() == [5, 4, 8, 3, 0, 7, 2, 1, 6, 9]
    first = Permutation(1_000_003, 1337, 0)(np.arange(4))
    assert first.tolist() == [848761, 441509, 512888, 821316]
    assert Permutation(1_000_003, 1337, 1)(np.arange(4)).tolist() == [299152, 367875, 460770, 685423]
    ends = np.array([0, 1, 2**61 - 1])
    assert Permutation(2**61, 7, "x")(ends).tolist() == [
        899161094408869110,
        1488920103475640471,
        1805180354194299718,
    ]


def z_of_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation in standard deviations of what independent samples would show."""
    return float(np.corrcoef(x, y)[0, 1] * math.sqrt(len(x)))


def scores(seed: int) -> dict[str, float]:
    """How far an order is from a random one by many measures, each in standard deviations."""
    out, indices = whole(N, seed, 0), np.arange(N)
    others = {
        "next seed": whole(N, seed + 1, 0),
        "next epoch": whole(N, seed, 1),
        "one index less": np.append(whole(N - 1, seed, 0), N - 1),
    }
    steps = np.diff(out)
    turns = np.sum((steps[:-1] > 0) != (steps[1:] > 0))
    bins = 1024
    steps_seen = np.bincount(np.mod(steps, N) * bins // N, minlength=bins)
    expected = len(steps) / bins
    found = {
        "index to value": z_of_correlation(indices, out),
        "successive values": z_of_correlation(out[:-1], out[1:]),
        "values two apart": z_of_correlation(out[:-2], out[2:]),
        "low three bits": z_of_correlation(indices & 7, out & 7),
        # Of a random permutation half are ascents, with a variance of (n + 1) / 12, and about two thirds turn.
        "ascents": (np.mean(steps > 0) - 0.5) * math.sqrt(12 * N),
        "turning points": (turns - 2 * (N - 2) / 3) / math.sqrt((16 * N - 29) / 90),
        "successive differences": (((steps_seen - expected) ** 2 / expected).sum() - (bins - 1))
        / math.sqrt(2 * (bins - 1)),
        "fixed points": (np.sum(out == indices) - 1) / 2,  # Poisson with mean 1
    }
    for bit in range(6):
        low, place = out >> bit & 1, indices >> bit & 1
        found[f"bit {bit} to that of the next value"] = z_of_correlation(low[:-1], low[1:])
        found[f"bit {bit} of index to that of value"] = z_of_correlation(place, low)
    for name, other in others.items():
        found[f"value to {name}"] = z_of_correlation(out, other)
        found[f"low bit to {name}"] = z_of_correlation(out & 1, other & 1)
        found[f"matches with {name}"] = (np.sum(out == other) - 1) / 2
    return found


@pytest.mark.parametrize("seed", [0, 1, 1337])
def test_looks_random(seed):
    assert {name: z for name, z in scores(seed).items() if abs(z) >= 3} == {}


def test_the_scores_would_show_an_order_that_is_not_random(monkeypatch):
    monkeypatch.setattr(permutation, "ROUNDS", 3)
    assert max(map(abs, scores(0).values())) > 30


@pytest.mark.parametrize("n", [2, 3, 7, 24])
def test_small_domains_are_fair_over_keys(n):
    keys = 3000
    counts = np.zeros((n, n))
    for key in range(keys):
        counts[np.arange(n), whole(n, key)] += 1
    expected = keys / n
    chi2 = ((counts - expected) ** 2 / expected).sum()
    freedom = (n - 1) ** 2
    assert abs(chi2 - freedom) / math.sqrt(2 * freedom) < 4


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint32, np.int64, np.uint64])
def test_any_integer_dtype_gives_int64_and_no_float_on_the_way(dtype):
    n = 2**53 + 3  # where float64 begins to drop odd numbers
    indices = np.array([0, 1, 2, 3, 254, 255], dtype)
    out = Permutation(n, 5)(indices)
    assert out.dtype == np.int64
    assert out.tolist() == [reference(n, int(i), 5) for i in indices]


def test_values_do_not_depend_on_what_they_are_asked_with():
    permutation, out = Permutation(5000, 1, 2), whole(5000, 1, 2)
    assert [int(permutation(np.array(i))) for i in range(0, 5000, 617)] == out[::617].tolist()
    assert np.array_equal(permutation(np.arange(5000).reshape(50, 4, 25)), out.reshape(50, 4, 25))
    assert np.array_equal(permutation(np.arange(4999, -1, -1)), out[::-1])
    assert permutation(np.zeros(0, np.int64)).shape == (0,)


@pytest.mark.parametrize(
    "sizes", [(7,), (1, 2, 1023), (1024, 1_000_003, 2**61), (1, 1023, 1024, 99_991, 2**62 - 1)]
)
def test_each_index_by_a_permutation_of_its_own(sizes):
    draw = np.random.default_rng(0)
    permutations = [Permutation(n, 3, number) for number, n in enumerate(sizes)]
    which = draw.integers(0, len(sizes), 500)
    indices = np.array([draw.integers(0, sizes[each]) for each in which])
    expected = [int(permutations[each](index)) for each, index in zip(which, indices, strict=True)]
    assert permute_each(permutations, which, indices).tolist() == expected


def test_an_index_outside_the_domain_of_its_own_permutation_is_refused():
    with pytest.raises(ValueError, match="indices must lie in"):
        permute_each([Permutation(10, 0), Permutation(20, 0)], np.array([0, 1]), np.array([15, 5]))
    with pytest.raises(ValueError, match="indices must lie in"):
        permute_each([Permutation(10, 0), Permutation(20, 0)], np.array([0, 1]), np.array([5, -1]))


def test_does_not_write_into_its_argument():
    indices = np.arange(100, dtype=np.uint64)
    Permutation(100, 1)(indices)
    assert np.array_equal(indices, np.arange(100))


def test_each_part_of_the_key_matters():
    orders = [whole(1000, *key) for key in ((1, 2), (2, 1), (1, 3), (1,), (1, 2, "validation"))]
    assert len({order.tobytes() for order in orders}) == len(orders)


@pytest.mark.parametrize("n", [0, -1, 2**62])
def test_impossible_sizes_are_refused(n):
    with pytest.raises(ValueError, match="1 ≤ n"):
        Permutation(n, 0)


@pytest.mark.parametrize("indices", [[-1], [0, 10], [2**63 - 1]])
def test_indices_outside_the_domain_are_refused(indices):
    with pytest.raises(ValueError, match=r"\[0, 10\)"):
        Permutation(10, 0)(np.array(indices))
