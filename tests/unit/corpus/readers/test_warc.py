import gzip
import random
import sys

import pytest

from gpt2dist.corpus import cut, discover, documents, files
from gpt2dist.corpus.documents import Skipped
from gpt2dist.errors import UserError
from tests.support.archives import WARCINFO, chunked, compressed, record, response, wet


@pytest.fixture
def read_warc(tmp_path, read_piece):
    pytest.importorskip("warcio", reason="warcio is an extra")

    def read(content, name="a.warc"):
        (tmp_path / name).write_bytes(content)
        (source,) = discover([str(tmp_path / name)])
        assert source.format == "warc"
        (piece,) = cut(source, 10)
        seen, count = read_piece(piece)
        return seen, count

    return read


def texts(seen):
    return [item.text for item in seen if not isinstance(item, Skipped)]


def kinds(seen):
    return [item.kind for item in seen if isinstance(item, Skipped)]


@pytest.mark.parametrize("name", ["a.warc.wet.gz", "a.wet", "CC.WET.GZ", "a.warc.wet.xz"])
def test_each_page_of_a_wet_file_is_a_document(read_warc, name):
    import lzma

    pages = ["First page.\nTwo lines.\n", "zweite Seite: äöü €", "", "最後"]
    records = wet(pages)
    stored = {"z": lambda: lzma.compress(b"".join(records)), "t": lambda: b"".join(records)}
    content = compressed(records) if name.lower().endswith("gz") else stored[name[-1].lower()]()
    seen, count = read_warc(content, name)
    assert texts(seen) == pages and count == 5
    assert [item.line for item in seen] == [2, 3, 4, 5]
    plain = b"".join(records)
    assert all(plain[item.offset :].startswith(b"WARC/1.0\r\nWARC-Type: conversion") for item in seen)
    assert sum(item.size for item in seen) <= len(content)


def test_plain_text_of_web_servers_is_read_and_html_is_counted(read_warc):
    records = [
        WARCINFO,
        record("request", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"),
        response(b"plain", "text/plain; charset=UTF-8"),
        response(b"<p>page</p>", "text/html; charset=utf-8"),
        response("café".encode("latin-1"), 'Text/Plain; charset="ISO-8859-1"'),
        response("日本".encode("shift_jis"), "text/plain;charset=shift_jis"),
        response("marked".encode("utf-16"), "text/plain"),
        response(b"\xef\xbb\xbfmarked too"),
        response(chunked(b"in two ", b"chunks"), Transfer_Encoding="chunked"),
        response(b"said to be chunked", Transfer_Encoding="chunked"),
        response(gzip.compress(b"compressed"), Content_Encoding="gzip"),
        response(chunked(gzip.compress(b"both")), Content_Encoding="gzip", Transfer_Encoding="chunked"),
        record("resource", b"a resource", "text/plain", version=b"WARC/1.1"),
        response(b"not found", status="404 Not Found"),
        response(b"x", "text/plain; charset=klingon"),
        response(b"x", Content_Encoding="br"),
        response(b"x", Content_Encoding="zstd"),
        response(b"x\0y"),
        response(b"x", None),
        response(b"x", "nonsense"),
        record("metadata", b"{}", "application/json"),
        record("response", b"", "application/http; msgtype=response"),
        record("b\u00e4d kind!", b"x"),
        response(b"caf\xe9"),
    ]
    seen, count = read_warc(compressed(records), "a.warc.gz")
    expected = ["plain", "café", "日本", "marked", "marked too", "in two chunks", "said to be chunked"]
    assert texts(seen) == [*expected, "compressed", "both", "a resource", "caf\ufffd"]
    assert kinds(seen) == [
        *("request", "text/html", "HTTP status 404", "text/plain in an unknown charset", "text/plain in brotli"),
        *("text/plain in an unknown content encoding", "text/plain with zero bytes"),
        *("unknown content type", "unknown content type", "metadata", "unknown content type"),
        "unknown record type",
    ]
    assert count == len(records) and seen[-1].repaired == 1


def test_damaged_compression_within_a_record_rejects_the_record_alone(read_warc):
    broken = gzip.compress(b"some text" * 50)[:-12]
    records = [response(broken, Content_Encoding="gzip"), response(b"\x1f\x8bxy", Content_Encoding="gzip")]
    seen, _ = read_warc(b"".join([*records, response(b"fine")]))
    assert [item.reason[:41] for item in seen] == ["its gzip content encoding is damaged (str"] * 2 + [""]
    assert seen[2].text == "fine"


def test_long_records_come_in_parts(read_warc, monkeypatch):
    monkeypatch.setattr(documents, "LONG_BYTES", 100)
    monkeypatch.setattr(documents, "PART_BYTES", 50)
    monkeypatch.setattr(files, "BLOCK_BYTES", 16)
    long = "ä long text, " * 30
    broken = gzip.compress(bytes(range(1, 128)) * 20)[:-12]
    records = [*wet([long, "short"]), response(broken, Content_Encoding="gzip"), response(b"end")]
    seen, _ = read_warc(b"".join(records))
    assert [(item.text, item.long) for item in seen] == [
        (long, True),
        ("short", False),
        (None, True),
        ("end", False),
    ]
    assert seen[2].reason.startswith("its gzip content encoding is damaged")


def test_an_unread_long_record_is_skipped(tmp_path, monkeypatch):
    pytest.importorskip("warcio", reason="warcio is an extra")
    from gpt2dist.corpus import Reading, read

    monkeypatch.setattr(documents, "LONG_BYTES", 10)
    (tmp_path / "a.wet").write_bytes(b"".join(wet(["a long text of a page", "b"])))
    (source,) = discover([str(tmp_path / "a.wet")])
    items = list(read(cut(source, 10)[0], Reading()))
    assert [type(item).__name__ for item in items] == ["LongDocument", "Document"]


WET = b"".join(wet(["some text of the page", "more"]))
SECOND = len(WARCINFO)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WET[:-12], "record 3, which starts at byte {third}, lacks its last"),
        (WET[: SECOND + 40], f"record 2, which starts at byte {SECOND}, has no valid Content-Length but ''"),
        (WET.replace(b"Content-Length: 21", b"Content-Length: 2x"), "has no valid Content-Length but '2x'"),
        (
            WET.replace(b"Content-Length: 21", b"Content-Length: 9"),
            "does not begin with WARC/1.0 or WARC/1.1 but",
        ),
        (b"GARBAGE" * 9, "record 1, which starts at byte 0, does not begin with WARC/1.0 or WARC/1.1 but b'GARB"),
        (b"WARC/1.0\r\n" + (b"a" * 999 + b"\r\n") * 1100, "has a header of more than 1,048,576 bytes"),
        (b"WARC/1.0\r\n" + b"a" * 2_000_000, "has a header of more than 1,048,576 bytes"),
    ],
    ids=["cut", "cut in a header", "length", "short length", "garbage", "long header", "long line"],
)
def test_a_damaged_file_stops_the_job(read_warc, content, message):
    third = SECOND + len(wet(["some text of the page"])[1])
    with pytest.raises(UserError) as error:
        read_warc(content)
    assert "a.warc: damaged, or not WARC (" in str(error.value)
    assert message.format(third=third) in str(error.value)
    assert str(error.value).endswith("; get it again, or exclude it")


def test_a_damaged_member_of_gzip_stops_the_job(read_warc):
    content = compressed(wet(["a", "b"]))
    with pytest.raises(
        UserError, match=r"a\.warc\.gz: damaged, or not \.gz \(stream 3, .*the file ends within it"
    ):
        read_warc(content[:-5], "a.warc.gz")


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_random_damage_is_found_or_harmless(read_warc, name):
    draw = random.Random(name)
    records = [*wet(["some text"]), response(chunked(gzip.compress(b"x")), Transfer_Encoding="chunked")]
    records.append(response(gzip.compress(b"text"), "text/plain; charset=gbk", Content_Encoding="gzip"))
    whole = compressed(records) if name.endswith("gz") else b"".join(records)
    refused = 0
    for _ in range(150):
        at, length = draw.randrange(len(whole)), draw.choice([0, 1, 1, 30])
        content = whole[:at] + draw.randbytes(draw.choice([0, 1, 1, 9])) + whole[at + length :]
        try:
            read_warc(content, name)
        except UserError:
            refused += 1
    assert refused > 25


def test_an_empty_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.wet").write_bytes(b"")
    (source,) = discover([str(tmp_path / "a.wet")])
    with pytest.raises(UserError, match=r"a\.wet: empty, without even a header"):
        cut(source, 10)


def test_the_library_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "warcio", None)
    (tmp_path / "a.wet").write_bytes(WET)
    (source,) = discover([str(tmp_path / "a.wet")])
    with pytest.raises(UserError, match=r"a\.wet: needs warcio; install it with pip install 'gpt2dist\[warc\]'"):
        cut(source, 10)


def test_wat_files_are_refused(tmp_path):
    (tmp_path / "a.warc.wat.gz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"\.wat files are not supported"):
        discover([str(tmp_path / "a.warc.wat.gz")])
