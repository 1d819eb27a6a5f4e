import bz2
import gzip
import hashlib
import io
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from gpt2dist.corpus import Reading, cut, read, spool


def zstandard_after_a_skippable_frame(data):
    return b"\x50\x2a\x4d\x18\x04\0\0\0pzst" + zstandard.compress(data)


@pytest.mark.parametrize(
    "compression, compress",
    [
        ("", bytes),
        ("gz", gzip.compress),
        ("xz", lzma.compress),
        ("bz2", bz2.compress),
        ("bz2", lambda data: bz2.compress(b"") + bz2.compress(data)),
        ("zst", zstandard.compress),
        ("zst", zstandard_after_a_skippable_frame),
    ],
)
def test_standard_input_is_read_from_the_file_that_it_was_put_in(tmp_path, compression, compress):
    lines = b"".join(b'{"text": "line %d"}\n' % i for i in range(100))
    data = compress(lines)
    source = spool(io.BytesIO(data), tmp_path / "stdin", "jsonl")
    assert (source.path, source.format, source.compression, source.size) == ("-", "jsonl", compression, len(data))
    assert source.version == hashlib.sha256(data).hexdigest()
    texts = [item.text for piece in cut(source, 100) for item in read(piece, Reading())]
    assert texts == [b"line %d" % i for i in range(100)]


def test_a_table_from_standard_input_is_cut_too(tmp_path):
    stored = io.BytesIO()
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(100)]}), stored, row_group_size=10)
    source = spool(io.BytesIO(stored.getvalue()), tmp_path / "stdin", "parquet")
    pieces = cut(source, 100)
    texts = [item.text for piece in pieces for item in read(piece, Reading())]
    assert len(pieces) == 10 and texts == [b"row %d" % i for i in range(100)]


def test_what_looks_compressed_in_a_format_of_its_own_is_left_alone(tmp_path):
    assert spool(io.BytesIO(b"BZh"), tmp_path / "stdin", "parquet").compression == ""
    assert spool(io.BytesIO(b""), tmp_path / "stdin", "text").size == 0


def test_a_text_that_starts_like_a_compressed_file_is_text(tmp_path):
    assert spool(io.BytesIO(b"BZh is no word"), tmp_path / "stdin", "text").compression == ""
