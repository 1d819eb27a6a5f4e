"""The shard format against bytes written down by hand from Megatron-core's definition."""

import hashlib
import os
import struct

import numpy as np
import pytest

from gpt2dist.dataset.megatron_format import HashingFile, Shard, ShardWriter, token_dtype
from gpt2dist.errors import UserError

# Two documents, [5 6 7] and [8 9], uint16. Every field spelled out; nothing of shards.py is used.
BY_HAND_BIN = bytes([5, 0, 6, 0, 7, 0, 8, 0, 9, 0])
BY_HAND_IDX = (
    b"MMIDIDX\x00\x00"
    b"\x01\x00\x00\x00\x00\x00\x00\x00"  # version
    b"\x08"  # uint16
    b"\x02\x00\x00\x00\x00\x00\x00\x00"  # sequences
    b"\x03\x00\x00\x00\x00\x00\x00\x00"  # documents + 1
    b"\x03\x00\x00\x00\x02\x00\x00\x00"  # lengths
    b"\x00\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"  # byte offsets
    b"\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"
)


def put(directory, index: bytes, data: bytes):
    (directory / "s.idx").write_bytes(index)
    (directory / "s.bin").write_bytes(data)
    return directory / "s"


def index(lengths, pointers, boundaries, code=8, version=1, magic=b"MMIDIDX\x00\x00"):
    s, d = len(lengths), len(boundaries)
    head = magic + struct.pack("<QBQQ", version, code, s, d)
    return head + struct.pack(f"<{s}i", *lengths) + struct.pack(f"<{s}q{d}q", *pointers, *boundaries)


def test_writer_gives_the_bytes_of_the_definition(tmp_path):
    with ShardWriter(tmp_path / "s", np.uint16) as writer:
        writer.add(np.array([5, 6, 7]), np.array([3]))
        writer.add(np.array([8, 9], dtype=np.uint32), np.array([2]))
    assert (tmp_path / "s.bin").read_bytes() == BY_HAND_BIN
    assert (tmp_path / "s.idx").read_bytes() == BY_HAND_IDX
    assert writer.sha256 == {
        "bin": hashlib.sha256(BY_HAND_BIN).hexdigest(),
        "idx": hashlib.sha256(BY_HAND_IDX).hexdigest(),
    }
    assert (writer.tokens, writer.documents) == (5, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.bin", "s.idx"]


def test_reader_reads_the_bytes_of_the_definition(tmp_path):
    shard = Shard(put(tmp_path, BY_HAND_IDX, BY_HAND_BIN))
    assert type(shard.tokens) is np.ndarray and not shard.tokens.flags.writeable
    assert shard.tokens.tolist() == [5, 6, 7, 8, 9] and len(shard) == 5
    assert shard.lengths.tolist() == [3, 2] and shard.document_ends.tolist() == [3, 5]
    assert shard.lengths.dtype == shard.document_ends.dtype == np.int64
    assert [shard.document(i).tolist() for i in range(shard.documents)] == [[5, 6, 7], [8, 9]]


@pytest.mark.parametrize("code, dtype", {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}.items())
def test_every_integer_dtype_of_megatron(tmp_path, code, dtype):
    data = np.array([1, 2, 3], dtype=dtype)
    prefix = put(tmp_path, index([3], [0], [0, 1], code=code), data.tobytes())
    assert Shard(prefix).tokens.tolist() == [1, 2, 3]
    with ShardWriter(tmp_path / "w", np.dtype(dtype)) as writer:
        writer.add(data, np.array([3]))
    assert (tmp_path / "w.idx").read_bytes() == (tmp_path / "s.idx").read_bytes()


def test_dtype_is_the_one_megatron_infers_from_the_vocabulary():
    assert token_dtype(50257) == np.uint16 and token_dtype(65499) == np.uint16
    assert token_dtype(65500) == np.int32


def test_prefix_with_dots_and_several_sequences_per_document_and_empty_documents(tmp_path):
    (tmp_path / "v1.0.idx").write_bytes(index([1, 2, 1], [0, 2, 6], [0, 0, 2, 2, 3]))
    (tmp_path / "v1.0.bin").write_bytes(bytes([1, 0, 2, 0, 3, 0, 4, 0]))
    shard = Shard(tmp_path / "v1.0")
    assert shard.documents == 4 and shard.sequences == 3
    assert shard.document_ends.tolist() == [0, 3, 3, 4]
    assert [shard.document(i).tolist() for i in range(4)] == [[], [1, 2, 3], [], [4]]


def test_merged_by_neox_without_boundaries_is_one_document_per_sequence(tmp_path):
    shard = Shard(put(tmp_path, index([3, 2], [0, 6], [0]), BY_HAND_BIN))
    assert shard.documents == 2 and shard.document_ends.tolist() == [3, 5]


def test_shard_without_documents(tmp_path):
    with ShardWriter(tmp_path / "s", np.uint16):
        pass
    shard = Shard(tmp_path / "s")
    assert len(shard) == shard.documents == 0 and shard.document_ends.tolist() == []


@pytest.mark.parametrize(
    "content, data, message",
    [
        (b"TNTIDX\x00\x00" + BY_HAND_IDX, BY_HAND_BIN, "fairseq's old format"),
        (b"\x93NUMPY, nothing of ours", BY_HAND_BIN, "not a Megatron-core index"),
        (b"", BY_HAND_BIN, "not a Megatron-core index"),
        (BY_HAND_IDX[:20], BY_HAND_BIN, "has 20 bytes, the header alone takes 34"),
        (BY_HAND_IDX[:-1], BY_HAND_BIN, "has 81 bytes; 2 sequences and 3 document boundaries take 82"),
        (BY_HAND_IDX + b"\0\0", BY_HAND_BIN, "multimodal"),
        (index([3, 2], [0, 6], [0, 1, 2], version=2), BY_HAND_BIN, "version 2"),
        (index([3, 2], [0, 6], [0, 1, 2], code=6), BY_HAND_BIN, "dtype code 6 is floating point"),
        (index([3, 2], [0, 6], [0, 1, 2], code=9), BY_HAND_BIN, "dtype code 9 is unknown"),
        (BY_HAND_IDX, BY_HAND_BIN[:-2], "has 8 bytes, its index describes 10"),
        (BY_HAND_IDX, BY_HAND_BIN + b"\0", "has 11 bytes, its index describes 10"),
    ],
)
def test_opening_refuses(tmp_path, content, data, message):
    with pytest.raises(UserError, match=message):
        Shard(put(tmp_path, content, data))


def test_missing_half(tmp_path):
    (tmp_path / "s.idx").write_bytes(BY_HAND_IDX)
    with pytest.raises(UserError, match=r"s\.bin: no such file"):
        Shard(tmp_path / "s")


def test_pointers_that_do_not_rise(tmp_path):
    shard = Shard(put(tmp_path, index([1, 2, 2], [0, -6, 6], [0, 1, 2, 3]), BY_HAND_BIN))
    with pytest.raises(UserError, match=r"sequence 1 should start at byte 2 of the .bin, the index says -6"):
        _ = shard.lengths


@pytest.mark.parametrize("boundaries", [[0, 1, 1], [1, 1, 2], [0, 2, 1, 2]])
def test_bad_document_array(tmp_path, boundaries):
    shard = Shard(put(tmp_path, index([3, 2], [0, 6], boundaries), BY_HAND_BIN))
    with pytest.raises(UserError, match="document array"):
        _ = shard.document_ends


@pytest.mark.parametrize(
    "tokens, lengths, message",
    [
        ([1, 2], [1], "do not fit 2 tokens"),
        ([1], [0, 1], "is < 1"),
        ([70000], [1], "uint16"),
        ([-1], [1], "uint16"),
    ],
)
def test_writer_never_wraps_or_loses_a_token(tmp_path, tokens, lengths, message):
    with pytest.raises(ValueError, match=message), ShardWriter(tmp_path / "s", np.uint16) as writer:
        writer.add(np.array(tokens), np.array(lengths))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("drop", [lambda file: file.discard(), lambda file: file.__del__()])
def test_a_file_that_a_full_disk_refuses_is_dropped_in_silence(tmp_path, drop):
    """From Python 3.13 a traceback is printed for a file that is collected and cannot be closed."""
    (tmp_path / f"s.bin.{os.getpid()}.tmp").symlink_to("/dev/full")
    file = HashingFile(tmp_path / "s.bin")
    file.write(b"in the buffer")
    drop(file)
    assert file._file.closed
