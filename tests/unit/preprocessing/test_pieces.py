"""Items are matched with the pieces of a corpus while both are read once, in order."""

from itertools import count

import pytest

from gpt2dist.preprocessing.pieces import matched


@pytest.mark.parametrize(
    ("numbers", "first", "found"),
    [
        ([], 0, []),
        ([0], 0, ["p0"]),
        ([0, 0, 1, 4, 4], 0, ["p0", "p0", "p1", "p4", "p4"]),
        ([7, 9], 7, ["p0", "p2"]),
    ],
)
def test_each_item_comes_with_its_piece(numbers, first, found):
    pieces = (f"p{number}" for number in range(5))
    assert list(matched(numbers, int, pieces, first)) == list(zip(found, numbers, strict=True))


def test_pieces_after_the_last_item_are_not_read():
    pieces = count()
    assert list(matched([2, 5], int, pieces)) == [(2, 2), (5, 5)]
    assert next(pieces) == 6
