import numpy as np
import pytest

from gpt2dist.data.manifest import Manifest
from gpt2dist.data.stream import TokenStream
from gpt2dist.errors import UserError

SHARDS = [np.arange(10, 17), np.arange(17, 18), np.zeros(0, int), np.arange(18, 30)]
WHOLE = np.arange(10, 30)


def shards() -> list[np.ndarray]:
    return [shard.astype(np.uint16) for shard in SHARDS]


def test_every_read_equals_a_slice_of_the_concatenation():
    stream = TokenStream(shards())
    assert len(stream) == 20
    for length in (1, 2, 7, 20):
        starts = np.arange(len(WHOLE) - length + 1)
        expected = np.stack([WHOLE[start : start + length] for start in starts])
        np.testing.assert_array_equal(stream.read(starts, length), expected)


def test_rows_come_in_the_order_asked_for_and_in_the_shards_dtype():
    rows = TokenStream(shards()).read(np.array([15, 0, 6]), 3)
    assert rows.tolist() == [[25, 26, 27], [10, 11, 12], [16, 17, 18]]
    assert rows.dtype == np.uint16


def test_beyond_the_end_there_are_zeros():
    rows = TokenStream(shards()).read(np.array([18, 20, 99]), 4)
    assert rows.tolist() == [[28, 29, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_prefix_shifts_the_stream_by_one():
    stream = TokenStream(shards(), prefix=5)
    assert len(stream) == 21
    assert stream.read(np.array([0, 7]), 3).tolist() == [[5, 10, 11], [16, 17, 18]]
    assert stream.dtype == np.uint16


def test_reading_does_not_change_or_alias_the_shards():
    arrays = shards()
    rows = TokenStream(arrays).read(np.array([0]), 5)
    rows[:] = 0
    assert arrays[0].tolist() == SHARDS[0].tolist()


def test_opens_a_split_of_a_dataset_directory(make_dataset):
    manifest = Manifest.load(make_dataset(train=[7, 5], val=[4]))
    train, val = (TokenStream.open(manifest, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (12, 4)
    # make_dataset counts on from shard to shard within a split
    assert train.read(np.array([0]), 12).tolist() == [list(range(12))]
    with pytest.raises(UserError, match="no split 'test'"):
        TokenStream.open(manifest, "test")
