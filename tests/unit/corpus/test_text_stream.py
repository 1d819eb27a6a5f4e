"""Files in other encodings than UTF-8, through the readers."""

import bz2
import csv
import gzip
import io
import json
import random

import pytest

from gpt2dist.corpus import cut, discover, documents, files
from gpt2dist.errors import UserError

# The second byte of 表, ソ and 能 in Shift-JIS, and of 功許蓋 in Big5, is a backslash. In UTF-16, U+0A0A and
# U+0A00 hold the byte of a line feed.
ALPHABETS = {
    "gb18030": '中文\U00020000é"\\ a\n',
    "shift_jis": '表ソ能あ"|\\ a\n',
    "big5": '功許蓋中"|\\a\n',
    "euc_kr": '가나"\\a\n',
    "iso8859-1": 'éà"\\ a\r\n',
    "iso2022_jp": '表ソ能あ"\\a\n',
    "hz": '中文~"a\n',
    "utf-16": '\u0a0a\u0a00\u000a中"a',
    "utf-16-be": '\u0a0a\u0a00中"a\n',
    "utf-32": '中"a\n',
    "cp037": 'abc"\n',
}
BLOCKS = (1, 7, 1 << 20)


def texts_in(encoding, count=60):
    draw = random.Random(encoding)
    return ["".join(draw.choices(ALPHABETS[encoding], k=draw.randint(1, 40))) for _ in range(count)]


@pytest.fixture(params=BLOCKS)
def block_bytes(request, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", request.param)
    return request.param


def read_all(path, encoding, size, read_piece, **options):
    """Text, line, offset and repairs of the documents of a file that is cut into pieces of `size` bytes."""
    (source,) = discover([str(path)], encoding=encoding)
    pieces = cut(source, size, encoding)
    seen, before, total = [], 0, 0
    for piece in pieces:
        items, lines = read_piece(piece, encoding=encoding, **options)
        seen += [(item.text, before + item.line, item.offset, item.repaired) for item in items]
        before += lines
        total += sum(item.size for item in items)
    assert sum(piece.size for piece in pieces) == total == source.size
    return seen, len(pieces)


@pytest.mark.parametrize("long_bytes", [1 << 20, 30])
@pytest.mark.parametrize("encoding", ALPHABETS)
def test_json_lines_in_pieces_of_any_size(tmp_path, read_piece, monkeypatch, block_bytes, encoding, long_bytes):
    monkeypatch.setattr(documents, "LONG_BYTES", long_bytes)
    texts = texts_in(encoding)
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode(encoding)
    )
    for size in (20, 333, 1 << 30):
        seen, pieces = read_all(path, encoding, size, read_piece)
        assert seen == [(text, line, -1, 0) for line, text in enumerate(texts, 1)]
        assert (pieces > 1) == (size < 1 << 30 and encoding in ("gb18030", "shift_jis", "big5", "iso8859-1"))


@pytest.mark.parametrize("encoding", ALPHABETS)
def test_tables_and_separated_texts(tmp_path, read_piece, block_bytes, encoding):
    texts = [text.replace("\r", "") for text in texts_in(encoding)]
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("n", "text"), *enumerate(texts)])
    (tmp_path / "a.csv").write_bytes(table.getvalue().encode(encoding))
    seen, _ = read_all(tmp_path / "a.csv", encoding, 20, read_piece)
    assert [text for text, *_ in seen] == texts
    (tmp_path / "a.txt.gz").write_bytes(
        gzip.compress("|".join(text.replace("|", "") for text in texts).encode(encoding))
    )
    seen, _ = read_all(tmp_path / "a.txt.gz", encoding, 20, read_piece, document_separator="|")
    assert [text for text, *_ in seen] == [text.replace("|", "") for text in texts]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("given", [None, "gbk", "utf-16-le"])
@pytest.mark.parametrize("size", [20, 1 << 30])
def test_a_byte_order_mark_wins(tmp_path, read_piece, block_bytes, encoding, given, size):
    texts = [f"第{n}篇" for n in range(30)]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    mark = "" if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    (tmp_path / "a.jsonl").write_bytes((mark + lines).encode(encoding))
    seen, _ = read_all(tmp_path / "a.jsonl", given, size, read_piece)
    assert [(text, line, repaired) for text, line, _, repaired in seen] == [
        (text, line, 0) for line, text in enumerate(texts, 1)
    ]
    (tmp_path / "a.txt").write_bytes((mark + "文章").encode(encoding))
    seen, _ = read_all(tmp_path / "a.txt", given, size, read_piece)
    assert seen[0][0] == "文章"


def test_what_is_invalid_in_the_encoding_is_counted(tmp_path, read_corpus):
    good = '{"text": "篇"}\n'.encode("gbk")
    (tmp_path / "a.jsonl").write_bytes(good + b'{"text": "\xff\xffx"}\n' + good + b'{"text": "\x81"}\n')
    seen = read_corpus(tmp_path / "a.jsonl", encoding="gbk")
    assert [(item.text, item.repaired) for item in seen] == [
        ("篇", 0),
        ("\ufffd\ufffdx", 2),
        ("篇", 0),
        ("\ufffd", 1),
    ]
    (tmp_path / "a.csv").write_bytes(b"text\n\xff\n")
    assert [(item.text, item.repaired) for item in read_corpus(tmp_path / "a.csv", encoding="gbk")] == [
        ("\ufffd", 1)
    ]
    (tmp_path / "a.txt").write_bytes("篇".encode("gbk") + b"\x81")
    assert [(item.text, item.repaired) for item in read_corpus(tmp_path / "a.txt", encoding="gbk")] == [
        ("篇\ufffd", 1)
    ]


def test_utf8_is_not_misread_as_another_encoding(tmp_path, read_corpus):
    (tmp_path / "a.txt").write_bytes(
        ("Ein Text über größere Dinge, schön gesetzt — und äußerst höflich. " * 2).encode()
    )
    with pytest.raises(
        UserError, match=r"a\.txt: is UTF-8, which --encoding cp1252 would misread; omit the option"
    ):
        read_corpus(tmp_path / "a.txt", encoding="cp1252")
    (tmp_path / "a.txt").write_bytes("Ã©".encode("cp1252"))  # UTF-8 by chance
    assert read_corpus(tmp_path / "a.txt", encoding="cp1252")[0].text == "Ã©"


def test_the_sizes_of_compressed_documents_add_up(tmp_path, read_corpus):
    data = bz2.compress("".join(f'{{"text": "第{n}篇"}}\n' for n in range(2000)).encode("gb18030"))
    (tmp_path / "a.jsonl.bz2").write_bytes(data)
    seen = read_corpus(tmp_path / "a.jsonl.bz2", encoding="gb18030")
    assert [item.text for item in seen] == [f"第{n}篇" for n in range(2000)]
    assert sum(item.size for item in seen) == len(data)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_formats_that_determine_their_encoding_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        UserError,
        match=rf"--encoding gbk: .*{name} is \w+, a format that determines the encoding of its text; omit the",
    ):
        discover([str(tmp_path / name)], encoding="gbk")
