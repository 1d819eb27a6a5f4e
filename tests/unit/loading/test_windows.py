import itertools
import tracemalloc

import numpy as np
import pytest

from gpt2dist.loading.windows import DocumentWindows, Windows

STREAMS = [
    (tokens, length, stride)
    for tokens, length in itertools.product(range(2, 26), range(1, 9))
    for stride in range(1, length + 1)
]


def brute_force(tokens: int, length: int, stride: int) -> list[tuple[int, list[int], list[int]]]:
    """Start, predicted and owned positions of each window, by the definition: one position at a time."""
    starts = [0]
    while starts[-1] + length < tokens - 1:  # the last target is not predicted yet
        starts.append(starts[-1] + stride)
    starts[-1] = max(0, min(starts[-1], tokens - 1 - length))  # right-aligned
    seen: set[int] = set()
    windows = []
    for start in starts:
        predicted = [p for p in range(start + 1, start + length + 1) if p < tokens]
        windows.append((start, predicted, [p for p in predicted if p not in seen]))
        seen.update(predicted)
    return windows


def test_starts_and_owned_targets_follow_the_definition():
    for tokens, length, stride in STREAMS:
        windows = Windows(tokens, length, stride)
        expected = brute_force(tokens, length, stride)
        numbers = np.arange(len(windows))
        starts, owned_from = windows.starts(numbers), windows.owned_from(numbers)
        assert [
            (
                start,
                list(range(start + 1, start + 1 + predicted)),
                list(range(start + 1 + first, start + 1 + first + n)),
            )
            for start, predicted, first, n in zip(
                starts, windows.predicted(numbers), owned_from, windows.owned(numbers), strict=True
            )
        ] == expected, (tokens, length, stride)


def test_each_target_is_owned_exactly_once():
    for tokens, length, stride in STREAMS:
        windows = Windows(tokens, length, stride)
        numbers = np.arange(len(windows))
        owned = np.concatenate(
            [
                np.arange(start + 1 + first, start + 1 + first + count)
                for start, first, count in zip(
                    windows.starts(numbers), windows.owned_from(numbers), windows.owned(numbers), strict=True
                )
            ]
        )
        assert sorted(owned) == list(range(1, tokens)), (tokens, length, stride)
        assert windows.owned(numbers).sum() == windows.targets == tokens - 1


def test_the_last_window_is_right_aligned():
    windows = Windows(tokens=21, sequence_length=8, stride=5)  # starts 0, 5, 10, and 15 would reach too far
    assert windows.starts(np.arange(4)).tolist() == [0, 5, 10, 12]
    assert windows.owned(np.arange(4)).tolist() == [8, 5, 5, 2]
    assert windows.owned_from(np.arange(4)).tolist() == [0, 3, 3, 6]


def test_disjoint_windows_own_all_that_they_predict():
    windows = Windows(tokens=33, sequence_length=8, stride=8)
    assert windows.owned(np.arange(4)).tolist() == windows.predicted(np.arange(4)).tolist() == [8, 8, 8, 8]


def test_a_stream_shorter_than_a_window_has_one_window():
    windows = Windows(tokens=4, sequence_length=8, stride=3)
    assert len(windows) == 1
    assert (windows.starts(np.array([0])), windows.owned_from(np.array([0]))) == (0, 0)
    assert windows.owned(np.array([0])) == windows.predicted(np.array([0])) == 3


def test_a_trillion_tokens_need_no_memory_and_no_rounding():
    windows = Windows(tokens=10**12 + 1, sequence_length=2048, stride=1024)
    last = np.array([len(windows) - 1])
    assert windows.starts(last) == 10**12 - 2048
    assert windows.starts(last).dtype == np.int64
    assert windows.owned(last) == (10**12 - 2048) % 1024 or 1024


def test_indices_of_any_integer_dtype_and_shape_give_int64():
    windows = Windows(tokens=100, sequence_length=8, stride=4)
    numbers = np.arange(6, dtype=np.uint16).reshape(2, 3)
    for result in (windows.starts(numbers), windows.owned(numbers), windows.predicted(numbers)):
        assert (result.dtype, result.shape) == (np.int64, (2, 3))


@pytest.mark.parametrize(
    ("tokens", "length", "stride", "message"),
    [(1, 4, 2, "no target"), (0, 4, 2, "no target"), (9, 4, 5, r"\[1, 4\]"), (9, 4, 0, r"\[1, 4\]")],
)
def test_impossible_windows_are_refused(tokens, length, stride, message):
    with pytest.raises(ValueError, match=message):
        Windows(tokens, length, stride)


@pytest.mark.parametrize("stride", [1, 3, 4, 8])
def test_windows_of_documents_are_those_of_each_document_by_itself(stride):
    lengths = np.array([9, 1, 2, 30, 0, 8, 17])
    begins = np.array([5, 14, 15, 17, 47, 60, 70])
    windows = DocumentWindows(begins, lengths, 8, stride)
    numbers = np.arange(len(windows))
    alone = [
        (Windows(length, 8, stride), begin) for length, begin in zip(lengths, begins, strict=True) if length > 1
    ]
    indices = [np.arange(len(document)) for document, _ in alone]
    both = list(zip(alone, indices, strict=True))
    assert windows.targets == sum(document.targets for document, _ in alone)
    for got, expected in (
        (windows.starts, lambda document, i, begin: document.starts(i) + begin),
        (windows.owned, lambda document, i, begin: document.owned(i)),
        (windows.predicted, lambda document, i, begin: document.predicted(i)),
    ):
        assert got(numbers).tolist() == np.concatenate([expected(d, i, b) for (d, b), i in both]).tolist()


def test_finding_windows_costs_the_same_memory_for_any_number_of_documents():
    """A copy of an array of all documents for each batch would make an evaluation quadratic."""
    allocated = []
    for documents in (1_000, 100_000):
        tokens = np.random.default_rng(0).integers(2, 40, documents)
        windows = DocumentWindows(np.cumsum(tokens) - tokens, tokens, 8, 4)
        indices = np.linspace(0, len(windows) - 1, 8).astype(np.int64)
        for method in (windows.starts, windows.owned, windows.predicted):
            method(indices)  # what is made once
            tracemalloc.start()
            method(indices)
            allocated.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert allocated[:3] == allocated[3:]
    assert max(allocated) < 8_000


def test_documents_without_a_target_have_no_window():
    windows = DocumentWindows(np.array([0, 1]), np.array([1, 0]), 8, 4)
    assert (len(windows), windows.targets) == (0, 0)


def test_a_stride_beyond_the_window_is_refused():
    for stride in (0, 9):
        with pytest.raises(ValueError, match=r"the stride must lie in \[1, 8\]"):
            DocumentWindows(np.array([0]), np.array([20]), 8, stride)
