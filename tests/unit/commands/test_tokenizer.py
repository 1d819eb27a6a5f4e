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
    assert "holds another tokenizer (content_sha256 differ)" in train("a.txt")


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
    assert "holds another tokenizer (files_sha256 differ)" in train("a.txt")


def test_standard_input(train, capsys):
    lines = b'{"content": "ab"}\n{"content": "bc"}\n'
    arguments = ("-", "--format", "jsonl", "--text-field", "content")
    assert train(*arguments, stdin=lines) == set("abc")
    assert train(*arguments, stdin=lines) == set("abc")
    assert "nothing to do" in capsys.readouterr().err
    assert "holds another tokenizer (content_sha256 differ)" in train(*arguments, stdin=lines + b"\n")


def test_files_of_several_kinds(train, tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,ab\n")
    (tmp_path / "b.txt").write_text("c|d")
    assert train("a.csv", "b.txt", "--document-separator", "|") == set("abcd")


def test_long_documents_and_bad_ones(train, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONG_BYTES", 40)
    monkeypatch.setattr(files, "BLOCK_BYTES", 10)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "ab" * 100}) + "\n" + "not JSON " * 20 + "\n")
    assert train("a.jsonl") == set("ab")


def test_a_corpus_with_nothing_readable(train, tmp_path):
    (tmp_path / "a.jsonl").write_text("[1]\n7\n")
    assert "not one document of the corpus can be read; the first: " in train("a.jsonl")
    assert "a.jsonl:1: not a JSON object but list" in train("a.jsonl")
