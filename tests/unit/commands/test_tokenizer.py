"""`tokenizer train` on corpora of all kinds."""

import hashlib
import io
import json
import os

import pytest

from gpt2dist import cli
from gpt2dist.corpus import documents, files
from gpt2dist.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Trains a character-level tokenizer: returns its characters, or what was said where there is none."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin=b""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main(["tokenizer", "train", *map(str, arguments), "--kind", "char", "--output", "tok"])
        if code:
            return capsys.readouterr().err
        tokenizer = Tokenizer.load("tok")
        return {tokenizer.decode([i]) for i in range(tokenizer.vocab_size) if i != tokenizer.end_of_text_id}

    return run


def test_a_copy_of_the_corpus_makes_nothing_again(train, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("abc")
    assert train("a.txt") == set("abc")
    os.utime(tmp_path / "a.txt", (1, 1))
    train("a.txt")
    assert "nothing to do" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("abd")
    os.utime(tmp_path / "a.txt", (1, 1))
    assert "contains another tokenizer (content_sha256 differ)" in train("a.txt")


def test_a_tokenizer_of_0_1_is_known_again(train, tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text("abc")
    train("a.txt")
    record = json.loads((tmp_path / "tok/tokenizer_origin.json").read_text())
    del record["content_sha256"]
    line = f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}\n"
    record["files_sha256"] = hashlib.sha256(line.encode()).hexdigest()
    (tmp_path / "tok/tokenizer_origin.json").write_text(json.dumps(record))
    train("a.txt")
    assert "nothing to do" in capsys.readouterr().err
    path.touch()
    assert "contains another tokenizer (files_sha256 differ)" in train("a.txt")


def test_standard_input(train, capsys):
    lines = b'{"content": "ab"}\n{"content": "bc"}\n'
    arguments = ("-", "--format", "jsonl", "--text-field", "content")
    assert train(*arguments, stdin=lines) == set("abc")
    assert train(*arguments, stdin=lines) == set("abc")
    assert "nothing to do" in capsys.readouterr().err
    assert "contains another tokenizer (content_sha256 differ)" in train(*arguments, stdin=lines + b"\n")


def test_files_of_several_kinds(train, tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,ab\n")
    (tmp_path / "b.txt").write_text("c|d")
    assert train("a.csv", "b.txt", "--document-separator", "|") == set("abcd")


def test_quotes_of_a_table(train, tmp_path, capsys):
    (tmp_path / "a.tsv").write_text('text\nab\n"cd" e\nab\n"c\nd')
    assert "3 of 5 documents cannot be read, more than --max-bad-fraction 0.001 allows" in train("a.tsv")
    some = ("a.tsv", "--max-bad-fraction", "0.9")
    assert train(*some) == set("ab")
    said = capsys.readouterr().err
    assert "WARNING: 3 documents cannot be read. The first: " in said
    assert "a.tsv:3: text after the quote that closes a field (--quoting none" in said
    assert "contains another tokenizer (quoting differ)" in train(*some, "--quoting", "none")
    assert "contains another tokenizer (max_field_lines differ)" in train(*some, "--max-field-lines", "9")
    assert "--max-field-lines 0: must be at least 1" in train("a.tsv", "--max-field-lines", "0")
    record = tmp_path / "tok" / "tokenizer_origin.json"
    older = json.loads(record.read_text())
    del older["quoting"], older["max_field_lines"]  # version 0.1 did not write them
    record.write_text(json.dumps(older))
    assert train(*some) == set("ab")


def test_long_documents_and_bad_ones(train, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONG_BYTES", 40)
    monkeypatch.setattr(files, "BLOCK_BYTES", 10)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "ab" * 100}) + "\n" + "not JSON " * 20 + "\n")
    assert "1 of 2 documents cannot be read, more than --max-bad-fraction 0.001 allows" in train("a.jsonl")
    assert train("a.jsonl", "--max-bad-fraction", "0.5") == set("ab")


def test_a_corpus_with_nothing_readable(train, tmp_path):
    (tmp_path / "a.jsonl").write_text("[1]\n7\n")
    said = train("a.jsonl", "--max-bad-fraction", "0.5")
    assert "2 of 2 documents cannot be read" in said and "--text-field" in said
    assert "a.jsonl:1: not a JSON object but list" in said
    (tmp_path / "a.jsonl").write_text("\n")
    assert "the corpus has no documents to read; check the inputs" in train("a.jsonl")


def test_text_that_is_not_utf8_stops_unless_its_encoding_is_named(train, tmp_path, capsys):
    text = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"
    (tmp_path / "a.txt").write_bytes(text.encode("shift_jis") * 20)
    said = train("a.txt")
    assert "characters are not valid UTF-8 and would become U+FFFD, more than --max-replaced-fraction" in said
    assert "such as --encoding cp932" in said
    assert train("a.txt", "--encoding", "shift_jis") == set(text)
    assert "contains another tokenizer (encoding differ)" in train("a.txt", "--encoding", "cp932")
    assert "--encoding sjis9: unknown text encoding" in train("a.txt", "--encoding", "sjis9")


def test_a_little_damage_is_reported(train, tmp_path, capsys):
    good = json.dumps({"text": "ab" * 1000}) + "\n"
    (tmp_path / "a.jsonl").write_bytes(good.encode() + b'{"text": "b\xff"}\n')
    assert "a.jsonl:2: 'b\ufffd': text that is not Unicode" in train("a.jsonl", "--on-bad-text", "fail")
    assert train("a.jsonl") == set("ab\ufffd")
    assert "WARNING: 1 characters became U+FFFD. The first: " in capsys.readouterr().err


def test_a_damaged_corpus_stops_early_but_not_for_one_unusual_line(train, tmp_path, capsys):
    unusual = json.dumps({"notes": "x" * 10_000, "text": "caf?"}).encode().replace(b"?", b"\xe9")
    (tmp_path / "a.jsonl").write_bytes(unusual + b"\n" + (json.dumps({"text": "ab" * 500}) + "\n").encode() * 20)
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "\xe9 b"}\n' * 5000)
    assert "100 of 300 characters are not valid UTF-8" in train("b.jsonl")
    assert train("a.jsonl") == set("abcf\ufffd")


def test_records_of_older_versions_still_match(train, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("ab")
    train("a.txt")
    record = json.loads((tmp_path / "tok/tokenizer_origin.json").read_text())
    del record["encoding"]
    (tmp_path / "tok/tokenizer_origin.json").write_text(json.dumps(record))
    assert train("a.txt") == set("ab")
    assert "nothing to do" in capsys.readouterr().err
