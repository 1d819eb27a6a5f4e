import json
import random

import pytest

from gpt2dist.corpus import LongDocument, Piece, Reading, documents, files, read


def whole(path):
    return Piece(str(path), "jsonl", "", 0, path.stat().st_size, path.stat().st_size)


def test_json_lines(tmp_path, read_corpus):
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
    assert [(document.text, document.line, document.repaired) for document in read_corpus(path)] == [
        ("first\r\n", 1, False),
        ("", 3, False),
        ("lone \ufffd surrogate", 4, True),
        ("😀 pair", 5, False),
        ("caf\ufffd", 6, True),
        ("fine", 7, False),
        ("last, without a newline", 8, False),
    ]
    assert sum(document.size for document in read_corpus(path)) == path.stat().st_size


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'{"text": "cut', "not JSON: "),
        (b'{"text": ' + b"[" * 100_000, "not JSON: "),
        (b'{"x": ' + b"[" * 200_000, "not JSON: nesting too deep at byte 100007 of the line"),
        (b'{"x": ' + b"1" * 5000 + b"}", "no field 'text'; its fields are 'x'"),
        (b'["text"]', "not a JSON object but list (`jq -c '.[]' FILE` makes a line of each element of an array)"),
        (b"[", "not a JSON object but list (`jq"),
        (b'"text"', "not a JSON object but str"),
        (b'{"content": "x", "id": 1}', "no field 'text'; its fields are 'content', 'id'"),
        (b'{"text": 7}', "field 'text' is int, not a string"),
        (b'{"text": null}', "field 'text' is NoneType, not a string"),
    ],
)
def test_rejected_lines_say_why(tmp_path, read_corpus, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "good"}\n')
    good, rejected, last = read_corpus(path)
    assert good.text == last.text == "good"
    assert (rejected.text, rejected.line, rejected.offset, rejected.size) == (None, 2, 17, len(line) + 1)
    assert rejected.reason.startswith(reason)


@pytest.mark.parametrize(
    "other",
    [
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"1" * 5000,
        b"[" * 3000 + b"]" * 3000,
        b'{"x": ' * 3000 + b"1" + b"}" * 3000,
    ],
    ids=lambda value: value[:10].decode(),
)
@pytest.mark.parametrize("text", [b"plain", b"half \\ud800 of a pair", b"caf\xe9"])
def test_what_is_beside_the_text_does_not_matter(tmp_path, read_corpus, other, text):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"other": ' + other + b', "text": "' + text + b'"}\n')
    (document,) = read_corpus(path)
    repaired = {b"plain": "plain", b"caf\xe9": "caf\ufffd"}.get(text, "half \ufffd of a pair")
    assert (document.text, document.repaired) == (repaired, text != b"plain")


def test_of_equal_keys_the_last_counts(tmp_path, read_corpus):
    (tmp_path / "a.jsonl").write_text('{"text": "first", "text": "last"}\n')
    assert [document.text for document in read_corpus(tmp_path / "a.jsonl")] == ["last"]


def test_a_file_that_is_one_array_says_how_to_make_lines_of_it(tmp_path, read_corpus):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "a"}, {"text": "b"}], indent=2))
    assert read_corpus(path)[0].reason.startswith("not a JSON object but list (`jq")


def test_dotted_field(tmp_path, read_corpus):
    path = tmp_path / "a.jsonl"
    path.write_text('{"meta": {"text": "deep"}}\n{"meta.text": "literal"}\n{"meta": "x"}\n')
    deep, literal, rejected = read_corpus(path, text_field="meta.text")
    assert (deep.text, literal.text) == ("deep", "literal")
    assert "no field 'meta.text'" in rejected.reason


@pytest.mark.parametrize("block_bytes, long_bytes", [(1 << 20, 8 << 20), (10, 8 << 20), (10, 30)])
@pytest.mark.parametrize("size", [1, 7, 16, 100, 10_000])
def test_pieces_give_every_line_once_whatever_the_cut(
    tmp_path, read_corpus, monkeypatch, size, block_bytes, long_bytes
):
    monkeypatch.setattr(documents, "LONG_BYTES", long_bytes)
    monkeypatch.setattr(files, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * (i % 53)}) + "\n" + "\n" * (i % 3) for i in range(50)))
    found = read_corpus(path, size)
    assert [document.text for document in found] == ["x" * (i % 53) for i in range(50)]
    assert any(document.long for document in found) == (long_bytes == 30)
    data = path.read_bytes()
    for document in found:  # number and offset lead back to the document
        line = data.split(b"\n")[document.line - 1]
        assert json.loads(line)["text"] == document.text
        assert data[document.offset :].startswith(line)
    assert sum(document.size for document in found) <= len(data)


def test_a_long_document_that_nobody_reads_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONG_BYTES", 30)
    monkeypatch.setattr(files, "BLOCK_BYTES", 10)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * 100 + str(i)}) + "\n" for i in range(3)))
    items = list(read(whole(path), Reading()))
    assert [item.line for item in items] == [1, 2, 3] and all(isinstance(item, LongDocument) for item in items)


def test_a_bad_long_line_accounts_for_all_its_bytes(tmp_path, monkeypatch, read_corpus):
    monkeypatch.setattr(documents, "LONG_BYTES", 30)
    monkeypatch.setattr(files, "BLOCK_BYTES", 10)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ' + "x" * 1000 + '}\n{"text": "good"}\n')
    bad, good = read_corpus(path)
    assert bad.reason.startswith("not JSON: no value at byte 9") and bad.size == 1011
    assert (good.text, good.line, good.size) == ("good", 2, 17)


def test_memory_does_not_grow_with_a_line(tmp_path):
    import tracemalloc

    path = tmp_path / "a.jsonl"
    words = random.Random(0).choices(["word ", "\\n", "é", "\\ud83d\\ude00", '\\"'], k=1 << 16)
    with open(path, "w") as file:
        file.write('{"skipped": "')
        for _ in range(200):
            file.write("".join(words))
        file.write('", "text": "')
        for _ in range(200):
            file.write("".join(words))
        file.write('"}\n')
    assert path.stat().st_size > 12 * documents.LONG_BYTES
    tracemalloc.start()
    reader = read(whole(path), Reading())
    document = next(reader)
    count = sum(len(part) for part in document.parts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 200 * len(json.loads(f'"{"".join(words)}"').encode())
    assert peak < 4 * documents.LONG_BYTES
