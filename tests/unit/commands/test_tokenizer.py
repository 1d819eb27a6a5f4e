"""`tokenizer train` on corpora of all kinds."""

import io
import json

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
