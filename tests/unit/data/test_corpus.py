import json

import pytest

from gpt2dist.data.corpus import Document, Piece, Rejected, cut, discover, line_in_file, read
from gpt2dist.errors import UserError


def names(sources):
    return [source.path.rsplit("/", 1)[1] for source in sources]


def whole(path, kind="jsonl"):
    return Piece(str(path), kind, 0, path.stat().st_size)


def test_discover_takes_files_directories_and_globs_once_and_sorted(tmp_path):
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for name in ("b.txt", "a.TXT", "code.py", "sub/c.jsonl", "sub/deep/d.rst", ".hidden.txt", ".git/e.txt"):
        (tmp_path / name).write_text("x")
    directory = str(tmp_path)
    assert names(discover([directory])) == ["a.TXT", "b.txt", "c.jsonl", "d.rst"]
    assert names(discover([directory + "/sub/../b.txt", directory, directory + "/b.txt"])) == names(
        discover([directory])
    )
    assert names(discover([directory], suffixes=(".py",))) == ["code.py"]
    assert names(discover([directory + "/**/*.py", directory + "/sub/**/*.rst"])) == ["code.py", "d.rst"]
    assert names(discover([directory], exclude=[tmp_path / "sub"])) == ["a.TXT", "b.txt"]
    assert {source.path[-5:]: source.kind for source in discover([directory])}["jsonl"] == "jsonl"


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert names(discover([str(tmp_path / "a[1].txt")])) == ["a[1].txt"]


@pytest.mark.parametrize(
    "name, message",
    [
        ("missing.txt", r"missing\.txt: no such file or directory"),
        ("*.xyz", "this pattern matches no file"),
        ("empty", r"no file in this directory ends in \.txt .*--suffix"),
        ("a.jsonl.gz", r"\.gz files are not read; unpack it"),
    ],
)
def test_discover_refuses(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.jsonl.gz").write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        discover([str(tmp_path / name)])


def test_text_file_is_one_document_byte_for_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\rthree\n\n")
    assert list(read(whole(path, "text"))) == [Document("one\r\ntwo\rthree\n\n", str(path), 1, 16)]


def test_text_in_broken_utf8_is_repaired_and_binaries_are_rejected(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9!")
    assert list(read(whole(path, "text"))) == [Document("caf\ufffd!", str(path), 1, 5, repaired=True)]
    path.write_bytes("text".encode("utf-16"))
    (rejected,) = read(whole(path, "text"))
    assert isinstance(rejected, Rejected) and "another encoding than UTF-8" in rejected.reason
    path.write_bytes(b"\xef\xbb\xbfmarked")
    (marked,) = read(whole(path, "text"))
    assert marked.text == "marked"


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"text": "first\\r\\n"}\r\n'
        b"\n"
        b'{"text": ""}\n'
        b'{"text": "lone \\ud800 surrogate"}\n'
        b'{"text": "\\ud83d\\ude00 pair"}\n'
        b'{"text": "caf\xe9"}\n'
        b'{"text": "fine", "other": "caf\xe9"}\n'
        b'{"text": "last, without a newline"}'
    )
    assert [(document.text, document.line, document.repaired) for document in read(whole(path))] == [
        ("first\r\n", 1, False),
        ("", 3, False),
        ("lone \ufffd surrogate", 4, True),
        ("😀 pair", 5, False),
        ("caf\ufffd", 6, True),
        ("fine", 7, False),
        ("last, without a newline", 8, False),
    ]


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'{"text": "cut', "not JSON: "),
        (b"[" * 100_000, "not JSON: "),
        (b'["text"]', "not a JSON object but list"),
        (b'{"content": "x", "id": 1}', "no field 'text'; its fields are 'content', 'id'"),
        (b'{"text": 7}', "field 'text' is int, not a string"),
        (b'{"text": null}', "field 'text' is NoneType, not a string"),
    ],
)
def test_rejected_lines_say_why(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "good"}\n')
    good, rejected, last = read(whole(path))
    assert good.text == last.text == "good"
    assert isinstance(rejected, Rejected) and rejected.line == 2 and rejected.reason.startswith(reason)


def test_dotted_field(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"meta": {"text": "deep"}}\n{"meta.text": "literal"}\n{"meta": "x"}\n')
    deep, literal, rejected = read(whole(path), "meta.text")
    assert (deep.text, literal.text) == ("deep", "literal")
    assert "no field 'meta.text'" in rejected.reason


@pytest.mark.parametrize("size", [1, 7, 16, 100, 10_000])
def test_pieces_give_every_line_once_whatever_the_cut(tmp_path, size):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * (i % 23)}) + "\n" + "\n" * (i % 3) for i in range(50)))
    (source,) = discover([str(path)])
    pieces = cut(source, size)
    assert sum(piece.end - piece.start for piece in pieces) == source.size
    documents = [(piece, document) for piece in pieces for document in read(piece)]
    assert [document.text for _, document in documents] == ["x" * (i % 23) for i in range(50)]
    for piece, document in documents:  # the line number leads back to the document
        line = path.read_text().split("\n")[line_in_file(piece, document.line) - 1]
        assert json.loads(line)["text"] == document.text


def test_text_file_is_never_cut_and_empty_file_has_no_piece(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 100)
    (tmp_path / "b.txt").write_text("")
    first, second = discover([str(tmp_path)])
    assert cut(first, 10) == [Piece(first.path, "text", 0, 100)]
    assert cut(second, 10) == []


def test_file_that_went_away(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        list(read(Piece(str(tmp_path / "gone.txt"), "text", 0, 1)))
