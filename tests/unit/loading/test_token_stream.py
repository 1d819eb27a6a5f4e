import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gpt2dist.dataset import dataset as dataset_module
from gpt2dist.dataset.manifest import Manifest, ShardRecord
from gpt2dist.dataset.megatron_format import HEADER, MAGIC, ShardWriter
from gpt2dist.errors import UserError
from gpt2dist.loading.token_stream import TokenStream, check_files

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
    assert TokenStream(shards()).read(np.array([20, 99]), 2).tolist() == [[0, 0], [0, 0]]
    assert TokenStream(shards()).read(np.array([], np.int64), 2).shape == (0, 2)


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


def random_reads(sizes: list[int], count: int, length: int, seed: int = 0) -> None:
    """Compares reads in many shards with slices of their concatenation."""
    draw = np.random.default_rng(seed)
    parts = [draw.integers(1, 60_000, size).astype(np.uint16) for size in sizes]
    whole = np.concatenate([*parts, np.zeros(length, np.uint16)])
    starts = draw.integers(0, sum(sizes), count)
    expected = np.stack([whole[start : start + length] for start in starts])
    np.testing.assert_array_equal(TokenStream(parts).read(starts, length), expected)


def test_batches_in_one_shard_in_several_and_across_many_borders():
    random_reads([5000], 64, 33)
    random_reads([5000, 1, 700, 33, 2000], 200, 33)
    random_reads([3] * 50, 100, 33)
    random_reads([40], 64, 40)  # most rows reach beyond the end


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the shards in the order in which they are opened."""
    names: list[str] = []
    shard = dataset_module.Shard
    monkeypatch.setattr(dataset_module, "Shard", lambda prefix: names.append(prefix.name) or shard(prefix))
    return names


def test_shards_are_opened_when_they_are_first_read_and_once(make_dataset, opened):
    stream = TokenStream.open(Manifest.load(make_dataset(train=[7, 5, 6])), "train")
    assert (len(stream), opened) == (18, [])
    for _ in range(2):
        stream.read(np.array([8, 8]), 3)
        assert opened == ["train-00001"]
    stream.read(np.array([10]), 3)
    assert opened == ["train-00001", "train-00002"]


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_kernel_is_told_not_to_read_around_what_is_shuffled(make_dataset, shuffled):
    manifest = Manifest.load(make_dataset(train=[70]))
    stream = TokenStream.open(manifest, "train", shuffled=shuffled)
    assert stream.read(np.array([4]), 3).tolist() == [[4, 5, 6]]
    mappings = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    (mine,) = [mapping for mapping in mappings if str(manifest.directory / "train-00000.bin") in mapping]
    (flags,) = re.findall(r"VmFlags: (.*)", mine)
    assert ("rr" in flags.split()) == shuffled  # MADV_RANDOM


def test_a_trillion_tokens_in_ten_thousand_shards(tmp_path, opened):
    """Sparse files: what is not written reads as zeros and takes no room."""
    count, size = 10_000, 120_000_000
    index = HEADER.pack(MAGIC, 1, 8, 1, 2) + b"".join(
        np.array(numbers, dtype).tobytes() for numbers, dtype in (([size], "<i4"), ([0], "<i8"), ([0, 1], "<i8"))
    )
    records = tuple(
        ShardRecord(f"train-{number:05}", "train", size, 1, 0, 0, {"bin": "", "idx": ""})
        for number in range(count)
    )
    for record in records:
        (tmp_path / f"{record.name}.idx").write_bytes(index)
        with open(tmp_path / f"{record.name}.bin", "wb") as file:
            file.truncate(2 * size)
    places = [2**32 - 1, 2**32, 2**40 - 1, 2**40, count * size - 3, 9999 * size - 1, 9999 * size]
    for value, place in enumerate(places, start=1):
        with open(tmp_path / f"train-{place // size:05}.bin", "r+b") as file:
            file.seek(2 * (place % size))
            file.write(value.to_bytes(2, "little"))
    manifest = Manifest("t", 50257, 50256, "uint16", {}, {}, records, directory=tmp_path)

    check_files(manifest, "train")
    tracemalloc.start()
    stream = TokenStream.open(manifest, "train")
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(stream) == count * size > 2**40
    assert opened == []
    assert memory / count < 1000  # bytes per shard: nothing grows with tokens or windows

    rows = stream.read(np.array([2**32 - 2, 2**40 - 2, count * size - 4, 9999 * size - 2]), 4)
    assert rows.tolist() == [[0, 1, 2, 0], [0, 3, 4, 0], [0, 5, 0, 0], [0, 6, 7, 0]]
    assert len(opened) == 4


@pytest.mark.parametrize("kind", ["bin", "idx"])
def test_a_missing_file_is_named_at_once_and_when_read(make_dataset, kind):
    manifest = Manifest.load(make_dataset(train=[7, 5], val=[4]))
    (manifest.directory / f"train-00001.{kind}").unlink()
    check_files(manifest, "val")
    with pytest.raises(
        UserError, match=rf"dataset: its files do not match the manifest; copy .*\n .*00001\.{kind}: no such"
    ):
        check_files(manifest, "train")
    stream = TokenStream.open(manifest, "train")
    stream.read(np.array([0]), 7)
    with pytest.raises(UserError, match=rf"train-00001\.{kind}: no such file"):
        stream.read(np.array([0]), 8)


def test_a_shard_that_was_cut_short_is_named_at_once_and_when_read(make_dataset):
    manifest = Manifest.load(make_dataset(train=[7, 5]))
    with open(manifest.directory / "train-00001.bin", "r+b") as file:
        file.truncate(8)
    with pytest.raises(UserError, match=r"00001\.bin: has 8 bytes, the manifest says 10"):
        check_files(manifest, "train")
    with pytest.raises(UserError, match=r"00001\.bin: has 8 bytes, its index describes 10"):
        TokenStream.open(manifest, "train").read(np.array([7]), 2)


def test_the_shard_of_another_dataset_is_refused(make_dataset):
    manifest, other = (Manifest.load(make_dataset(name, train=[size])) for name, size in (("a", 7), ("b", 9)))
    for kind in ("bin", "idx"):
        (other.directory / f"train-00000.{kind}").rename(manifest.directory / f"train-00000.{kind}")
    message = r"a/train-00000\.bin: holds 9 tokens of uint16, the manifest says 7 of uint16; copy the dataset"
    with pytest.raises(UserError, match=message):
        TokenStream.open(manifest, "train").read(np.array([0]), 2)


def test_ten_damaged_files_are_listed_and_the_others_counted(make_dataset):
    manifest = Manifest.load(make_dataset(train=[3] * 13))
    for record in manifest.shards:
        (manifest.directory / f"{record.name}.bin").write_bytes(b"")
    with pytest.raises(UserError) as raised:
        check_files(manifest, "train")
    assert str(raised.value).count("has 0 bytes, the manifest says 6") == 10
    assert str(raised.value).endswith("\n    … and 3 more")


@pytest.mark.parametrize(
    ("dtype", "stray"), [(np.uint16, 300), (np.uint16, 65_535), (np.int32, -1), (np.int32, 2**20)]
)
@pytest.mark.parametrize("prefix", [None, 299])
def test_ids_beyond_the_vocabulary_are_named(tmp_path, dtype, stray, prefix):
    records = []
    for number, lengths in enumerate(([10, 5], [3, 4, 8])):
        name = f"train-{number:05}"
        with ShardWriter(tmp_path / name, dtype) as writer:
            tokens = np.arange(sum(lengths)) % 300
            if number:
                tokens[9] = stray
            writer.add(tokens, np.array(lengths))
        records.append(ShardRecord(name, "train", len(tokens), len(lengths), 0, 0, writer.sha256))
    manifest = Manifest("t", 300, 299, np.dtype(dtype).name, {}, {}, tuple(records))
    manifest.save(tmp_path)
    stream = TokenStream.open(manifest, "train", prefix)
    before = 15 + (prefix is not None)
    assert len(stream.read(np.array([0, before - 3, before + 1]), 8)) == 3
    assert stream.read(np.array([before + 10]), 5)[0].tolist() == [10, 11, 12, 13, 14]
    for starts in ([before + 9], [0, before + 2], [before - 5, 0]):
        with pytest.raises(UserError) as refused:
            stream.read(np.array(starts), 15)
        assert str(refused.value) == (
            f"{tmp_path}/train-00001.bin: token 9 (document 4 of train, its token 2) is {stray:,}, and the "
            "vocabulary has 300 ids; the file is damaged, or was made with another tokenizer: copy the dataset "
            f"again, or preprocess the corpus again. `gpt2dist inspect {tmp_path} --verify` finds all damage"
        )


def test_ids_of_arrays_are_checked_on_request():
    tokens = np.array([1, 2, 300, 3], np.uint16)
    assert TokenStream([tokens]).read(np.array([0]), 4)[0].tolist() == [1, 2, 300, 3]
    with pytest.raises(UserError, match="token 2 of the text is 300, and the vocabulary has 300 ids"):
        TokenStream([tokens], vocab_size=300).read(np.array([0]), 4)
