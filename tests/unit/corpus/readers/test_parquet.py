import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt2dist.corpus import Piece, Reading, cut, discover, documents, read
from gpt2dist.errors import UserError

TEXTS = ["plain", "", "é€😀", "x" * 1000, "two\nlines", *(f"text {i}" for i in range(45))]


def write_file(table, path, rows):
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def write_stream(table, path, rows):
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


WRITERS = {
    "a.parquet": lambda table, path, rows: pq.write_table(table, path, row_group_size=rows),
    "a.arrow": write_file,
    "stream.arrow": write_stream,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("size", [1, 1000, 5000, 1 << 40])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_pieces_give_every_row_once_whatever_the_cut(tmp_path, read_corpus, name, size, rows):
    table = pa.table({"id": range(50), "text": TEXTS, "other": TEXTS})
    WRITERS[name](table, tmp_path / name, rows)
    seen = read_corpus(tmp_path / name, size)
    assert [(document.text, document.line) for document in seen] == list(zip(TEXTS, range(1, 51), strict=True))
    assert {document.offset for document in seen} == {-1}
    stored = (tmp_path / name).stat().st_size
    assert sum(document.size for document in seen) in (stored, stored - 8)  # the mark at the end of a stream
    pieces = cut(discover([str(tmp_path / name)])[0], size)
    assert (len(pieces) > 1) == (rows < 50 and size < stored and name != "stream.arrow")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_all_ways_to_store_text(tmp_path, read_corpus, name, kind):
    texts = pa.array(["é", None, "", "again", "again"])
    array = texts.dictionary_encode() if pa.types.is_dictionary(kind) else texts.cast(kind)
    WRITERS[name](pa.table({"text": array}), tmp_path / name, 2)
    seen = read_corpus(tmp_path / name)
    assert [document.text for document in seen] == ["é", None, "", "again", "again"]
    assert (seen[1].line, seen[1].reason) == (2, "field 'text' is null, not a string")


@pytest.mark.parametrize("name", WRITERS)
def test_fields_in_struct_columns(tmp_path, read_corpus, name):
    rows = [
        {"meta": {"inner": {"text": "deep"}}},
        {"meta": None},
        {"meta": {"inner": None}},
        {"meta": {"inner": {}}},
    ]
    table = pa.Table.from_pylist(rows).append_column("a.b", pa.array(["dotted"] * 4))
    WRITERS[name](table, tmp_path / name, 3)
    seen = read_corpus(tmp_path / name, text_field="meta.inner.text")
    assert [document.text for document in seen] == ["deep", None, None, None]
    assert [document.text for document in read_corpus(tmp_path / name, text_field="a.b")] == ["dotted"] * 4


@pytest.mark.parametrize("name", WRITERS)
def test_a_column_of_the_very_name_goes_before_a_field(tmp_path, read_corpus, name):
    table = pa.table({"a": [{"b": "field"}], "a.b": ["column"]})
    WRITERS[name](table, tmp_path / name, 1)
    assert [document.text for document in read_corpus(tmp_path / name, text_field="a.b")] == ["column"]


@pytest.mark.parametrize("name", WRITERS)
def test_broken_utf8_is_repaired(tmp_path, read_corpus, name):
    WRITERS[name](pa.table({"text": pa.array([b"caf\xe9", b"good"])}), tmp_path / name, 2)
    seen = read_corpus(tmp_path / name)
    assert [(document.text, document.repaired) for document in seen] == [("caf\ufffd", True), ("good", False)]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "field, message",
    [
        (
            "text",
            r"no column 'text'; its columns are 'id', 'meta', 'list'; name the text column with --text-field",
        ),
        ("meta.text", "no column 'meta.text'; its columns are"),
        ("id", "column 'id' is int64, not text; choose another with --text-field"),
        ("id.text", "no column 'id.text'"),
        ("list", "column 'list' is list<.*>, not text"),
    ],
)
def test_a_table_without_the_column_is_refused(tmp_path, read_corpus, name, field, message):
    table = pa.table({"id": [1], "meta": [{"content": "x"}], "list": [["x"]]})
    WRITERS[name](table, tmp_path / name, 1)
    with pytest.raises(UserError, match=message):
        read_corpus(tmp_path / name, text_field=field)


@pytest.mark.parametrize("name", WRITERS)
def test_two_columns_of_one_name_are_refused(tmp_path, read_corpus, name):
    text = pa.array(["x", "y"])
    meta = pa.StructArray.from_arrays([text, text, text], ["a", "b", "b"])
    WRITERS[name](pa.table([text, text, meta], ["text", "text", "meta"]), tmp_path / name, 1)
    for field, key in (("text", "text"), ("meta.b", "b")):
        with pytest.raises(UserError) as raised:
            read_corpus(tmp_path / name, text_field=field)
        assert str(raised.value) == (
            f"{tmp_path / name}: 2 columns are named '{key}', so the text column is ambiguous; "
            "rename or remove all but one"
        )
    assert [document.text for document in read_corpus(tmp_path / name, text_field="meta.a")] == ["x", "y"]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("size", [1, 1 << 40])
def test_damaged_files_are_named(tmp_path, read_corpus, name, size):
    path = tmp_path / name
    WRITERS[name](pa.table({"text": [str(i) * 50 for i in range(1000)]}), path, 100)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"no table at all", whole[:8]):
        path.write_bytes(data)
        with pytest.raises(
            UserError, match=rf"{name}: damaged, or not (parquet|Arrow) \(.*get it again, or exclude it"
        ):
            read_corpus(path, size)


LINES = [f"document number {i:04}" for i in range(64)]  # of 20 bytes each, too long for a view to hold
RISING = np.arange(65)
DICTIONARY = pa.array(LINES[:32]).dictionary_encode()
DAMAGED_NUMBERS = {  # the column, numbers in its file, and a wrong one for the 20th
    "offset beyond": (pa.array(LINES), 20 * RISING, "<i4", 100_000),
    "offset backwards": (pa.array(LINES), 20 * RISING, "<i4", 5),
    "negative offset": (pa.array(LINES), 20 * RISING, "<i4", -20),
    "large offset": (pa.array(LINES, pa.large_string()), 20 * RISING, "<i8", 5),
    "offset of bytes": (pa.array(LINES, pa.large_string()).cast(pa.binary()), 20 * RISING, "<i4", 5),
    "index": (DICTIONARY, RISING[:32], "<i4", 32),
    "negative index": (DICTIONARY, RISING[:32], "<i4", -1),
    "offset in a dictionary": (DICTIONARY, 20 * RISING[:33], "<i4", 5),
    "offset in a field": (pa.StructArray.from_arrays([LINES], ["text"]), 20 * RISING, "<i4", 5),
}


@pytest.mark.parametrize("name", ["a.arrow", "stream.arrow"])
@pytest.mark.parametrize("damage", DAMAGED_NUMBERS)
def test_damaged_numbers_of_arrow_files_are_refused(tmp_path, read_corpus, name, damage):
    column, numbers, kind, wrong = DAMAGED_NUMBERS[damage]
    field = "text.text" if pa.types.is_struct(column.type) else "text"
    path = tmp_path / name
    WRITERS[name](pa.table({"text": column}), path, 64)
    assert [document.text for document in read_corpus(path, text_field=field)] == LINES[: len(column)]
    damaged = numbers.astype(kind)
    damaged[20] = wrong
    whole = path.read_bytes()
    assert whole.count(numbers.astype(kind).tobytes()) == 1
    path.write_bytes(whole.replace(numbers.astype(kind).tobytes(), damaged.tobytes()))
    with pytest.raises(UserError, match=rf"{name}: damaged, or not Arrow \(.*; get it again, or exclude it"):
        read_corpus(path, text_field=field)


@pytest.mark.parametrize("name", ["a.arrow", "stream.arrow"])
def test_damaged_views_and_null_bits_are_refused(tmp_path, read_corpus, name):
    views = pa.array(LINES, pa.string_view())
    one = b"".join([(20).to_bytes(4, "little"), b"docu", bytes(4), (20 * 20).to_bytes(4, "little")])
    wrong = one[:-4] + (1 << 20).to_bytes(4, "little")
    nulls = pa.array([None if i % 2 else line for i, line in enumerate(LINES)])
    for column, old, new in ((views, one, wrong), (nulls, b"\x55" * 8, b"\x55" * 7 + b"\x54")):
        WRITERS[name](pa.table({"text": column}), tmp_path / name, 64)
        whole = (tmp_path / name).read_bytes()
        assert whole.count(old) == 1
        (tmp_path / name).write_bytes(whole.replace(old, new))
        with pytest.raises(UserError, match=rf"{name}: damaged, or not Arrow"):
            read_corpus(tmp_path / name)


@pytest.mark.parametrize("size", [1, 1 << 40])
def test_a_stream_must_be_whole_and_alone(tmp_path, read_corpus, size):
    path = tmp_path / "a.arrow"
    write_stream(pa.table({"text": LINES}), path, 16)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(
        UserError, match=r"a\.arrow: damaged, .*its end is missing: it was cut short, or its writer"
    ):
        read_corpus(path, size)
    path.write_bytes(whole + whole)
    with pytest.raises(
        UserError, match=rf"{len(whole)} bytes follow the end of its stream, such as a second stream"
    ):
        read_corpus(path, size)


def test_page_checksums_of_parquet_files_are_checked(tmp_path, read_corpus):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": LINES})
    pq.write_table(table, path, use_dictionary=False, compression="none", write_page_checksum=True)
    path.write_bytes(path.read_bytes().replace(b"number 0020", b"number 0O20"))
    with pytest.raises(UserError, match=r"a\.parquet: damaged, or not parquet \(.*CRC"):
        read_corpus(path)


def test_a_parquet_file_with_fewer_rows_than_its_metadata_says_is_refused(tmp_path, read_corpus):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": LINES[:50]}), path)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    rows = b"\x64"  # 50 in Thrift's compact encoding
    reasons = []
    for place in (place for place in range(footer, len(whole) - 8) if whole[place : place + 1] == rows):
        path.write_bytes(whole[:place] + b"\x66" + whole[place + 1 :])
        try:
            assert [document.text for document in read_corpus(path)] == LINES[:50]
        except UserError as error:
            reasons.append(str(error))
    assert any("it has 50 rows, its metadata says 51" in reason for reason in reasons)


@pytest.mark.parametrize("write", [write_file, write_stream])
def test_the_size_of_a_batch_without_rows_is_not_lost(tmp_path, read_corpus, write):
    new = pa.ipc.new_file if write is write_file else pa.ipc.new_stream
    batches = [pa.record_batch({"text": pa.array(texts, pa.string())}) for texts in ([], ["a", "b"])]
    with new(tmp_path / "a.arrow", batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    sizes = [document.size for document in read_corpus(tmp_path / "a.arrow")]
    stored = (tmp_path / "a.arrow").stat().st_size
    assert sum(sizes) == stored - (8 if write is write_stream else 0)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_went_away(tmp_path, read_piece, name):
    (tmp_path / name).write_bytes(b"x" * 100)
    (source,) = discover([str(tmp_path / name)])
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: cannot be read \(.*No such file"):
        read_piece(Piece(source.path, source.format, "", 0, 1, 1))
    with pytest.raises(UserError, match=rf"{name}: cannot be read \(.*No such file"):
        cut(source, 10)


@pytest.mark.parametrize("name", WRITERS)
def test_tables_without_rows(tmp_path, read_corpus, name):
    WRITERS[name](pa.table({"text": pa.array([], pa.string())}), tmp_path / name, 1)
    assert read_corpus(tmp_path / name) == read_corpus(tmp_path / name, size=1) == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_long_cell_comes_in_parts(tmp_path, read_corpus, name, monkeypatch):
    monkeypatch.setattr(documents, "LONG_BYTES", 1 << 20)
    text = "é€😀x" * (1 << 18)
    WRITERS[name](pa.table({"text": ["short", text, "short"]}), tmp_path / name, 3)
    seen = read_corpus(tmp_path / name)
    assert [document.text for document in seen] == ["short", text, "short"]
    assert [document.long for document in seen] == [False, True, False]


def test_only_the_column_with_the_text_is_read_of_a_parquet_file_and_a_little_at_a_time(tmp_path):
    text = "word " * 2000
    table = pa.table(
        {"text": [f"{i} {text}" for i in range(4000)], "other": [f"{text} {i}" for i in range(4000)]}
    )
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, compression="none")
    assert (tmp_path / "a.parquet").stat().st_size > 75e6
    del table
    (piece,) = cut(discover([str(tmp_path / "a.parquet")])[0], 1 << 40)
    pool = pa.default_memory_pool()
    before, peak = pool.bytes_allocated(), 0
    tracemalloc.start()
    for document in read(piece, Reading()):
        peak = max(peak, pool.bytes_allocated() - before)
        assert len(document.text) > 10_000
    assert peak + tracemalloc.get_traced_memory()[1] < 3 * documents.LONG_BYTES
    tracemalloc.stop()
