import json

import pytest

from gpt2dist.errors import UserError
from gpt2dist.quickstart.corpus import make_corpus


def documents(path):
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_the_default_corpus_is_the_standard_library_without_its_tests(tmp_path):
    assert "documents" in make_corpus(tmp_path / "c.jsonl")
    texts = documents(tmp_path / "c.jsonl")
    assert len(texts) > 400
    assert any("class JSONDecoder" in text for text in texts)
    assert any("topics = {" in text for text in texts)  # the manual's topics
    assert not any("class TestCase_Test" in text or "import pip._internal" in text for text in texts)


def test_a_long_document_is_cut_so_that_some_can_be_held_out(tmp_path):
    text = "".join(f"line {number}\n" for number in range(5000))
    (tmp_path / "long.txt").write_text(text)
    make_corpus(tmp_path / "c.jsonl", [str(tmp_path / "long.txt")])
    pieces = documents(tmp_path / "c.jsonl")
    assert 150 < len(pieces) <= 201
    assert "".join(pieces) == text


def test_it_is_made_once_and_again_for_other_sources(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("one")
    make_corpus(tmp_path / "c.jsonl", [str(source)])
    assert "there already" in make_corpus(tmp_path / "c.jsonl", [str(source)])
    source.write_text("another")
    assert "there already" not in make_corpus(tmp_path / "c.jsonl", [str(source)])
    assert documents(tmp_path / "c.jsonl") == ["another"]


def test_an_input_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        make_corpus(tmp_path / "c.jsonl", [str(tmp_path / "nowhere.txt")])
    assert list(tmp_path.iterdir()) == []
