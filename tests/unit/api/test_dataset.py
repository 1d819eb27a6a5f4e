import numpy as np
import pytest

import gpt2dist
from gpt2dist.cli import main
from gpt2dist.errors import UserError
from tests.support.jobs import content


@pytest.fixture
def corpus(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("First document.\n\nSecond one.\n\nThird, the last.")
    gpt2dist.Tokenizer.train([corpus.read_text()], kind="char").save(tmp_path / "tokenizer")
    return corpus


@pytest.fixture
def dataset(corpus, tmp_path):
    return gpt2dist.Dataset.build(corpus, tmp_path / "tokenizer", tmp_path / "d", document_separator="\n\n")


def test_what_it_holds(dataset):
    assert (dataset.splits, dataset.totals("train").documents) == (("train",), 3)
    texts = [dataset.tokenizer.decode(tokens[:-1]) for tokens in dataset.documents("train")]
    assert texts == ["First document.", "Second one.", "Third, the last."]
    stream = np.concatenate(list(dataset.documents("train")))
    assert len(stream) == dataset.totals("train").tokens
    assert dataset.tokens("train", [0, 16], 5).tolist() == [stream[:5].tolist(), stream[16:21].tolist()]
    assert gpt2dist.Dataset(dataset).manifest == dataset.manifest
    assert repr(dataset) == f"Dataset('{dataset.directory}')"


def test_it_is_what_the_verb_makes(dataset, corpus, tmp_path):
    words = ["--tokenizer", str(tmp_path / "tokenizer"), "--output", str(tmp_path / "verb")]
    assert main(["preprocess", str(corpus), *words, "--document-separator", r"\n\n", "--workers", "1"]) == 0
    assert content(tmp_path / "verb") == content(dataset.directory)


def test_a_finished_build_is_opened(dataset, corpus, tmp_path, capsys):
    again = gpt2dist.Dataset.build(
        [corpus], tmp_path / "tokenizer", dataset, document_separator="\n\n", quiet=True
    )
    assert again.manifest == dataset.manifest
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: gpt2dist.Dataset(d.directory.parent), "not a dataset directory, it has no manifest.json"),
        (lambda d: d.totals("val"), "no split 'val'; it has train"),
        (lambda d: d.tokens("train", [-1], 4), "starts must be a list of positions of at least 0"),
        (lambda d: d.tokens("train", 3, 4), "starts must be a list of positions of at least 0"),
        (lambda d: d.build("nowhere.txt", d.directory, d.directory.parent / "new"), "nowhere.txt"),
    ],
)
def test_wrong_input(dataset, call, message):
    with pytest.raises(UserError, match=message):
        call(dataset)
