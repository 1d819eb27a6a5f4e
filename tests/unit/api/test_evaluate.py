import json

import pytest

import gpt2dist
from gpt2dist.cli import main
from gpt2dist.distributed.world import leave
from gpt2dist.errors import UserError

VARYING = ("seconds", "tokens_per_second")


@pytest.fixture
def verb(model, capsys):
    """The result of the verb, as JSON."""

    def call(*words):
        try:
            assert main(["evaluate", str(model), *map(str, words), "--json"]) == 0
        finally:
            leave()
        return constant(json.loads(capsys.readouterr().out))

    return call


def constant(result):
    return {key: value for key, value in result.items() if key not in VARYING}


def test_a_dataset_has_the_numbers_of_the_verb_to_the_bit(model, tiny_dataset, verb):
    expected = verb("--data", tiny_dataset, "--stride", 16, "--prefix", "end-of-text", "--per-document")
    settings = {"stride": 16, "prefix": "end-of-text", "per_document": True}
    for data in (tiny_dataset, gpt2dist.Dataset(tiny_dataset)):
        assert constant(gpt2dist.evaluate(model, data, **settings)) == expected


def test_another_dtype_has_the_numbers_of_the_verb_to_the_bit(model, tiny_dataset, verb, capsys):
    expected = verb("--data", tiny_dataset, "--dtype", "bf16")
    assert constant(gpt2dist.evaluate(model, tiny_dataset, dtype="bf16")) == expected
    assert capsys.readouterr().err.count("gpt2dist evaluate: dtype bf16: loss ") == 1


def test_texts_have_the_numbers_of_the_verb_to_the_bit(model, verb, tmp_path):
    path, texts = tmp_path / "texts.jsonl", ["abc def ghi", "jkl " * 40]
    path.write_text("".join(json.dumps({"page": text}) + "\n" for text in texts))
    expected = verb("--text", path, "--text-field", "page")
    assert constant(gpt2dist.evaluate(model, text=path, text_field="page")) == expected
    assert constant(gpt2dist.evaluate(model, documents=texts)) == expected


def test_quiet_shows_nothing(model, tiny_dataset, capsys):
    gpt2dist.evaluate(model, tiny_dataset, quiet=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give one of data, text and documents"),
        ({"data": "d", "text": "t"}, "give one of data, text and documents"),
        ({"data": "nowhere"}, "nowhere: no such directory"),
        ({"data": "d", "detokenizer": "wikitext"}, "detokenizer: the dataset holds tokens"),
        ({"documents": ["a"], "detokenizer": "moses"}, "detokenizer 'moses' is not one of none, wikitext"),
        ({"documents": ["a"], "split": "val"}, "split: only a dataset has splits; omit it for texts"),
        ({"documents": []}, "documents: contains no text"),
        ({"text": "nowhere", "dtype": "tf32"}, "dtype tf32 needs an NVIDIA GPU .*, not a CPU; give fp32"),
        ({"text": "nowhere", "dtype": "fp16"}, "dtype 'fp16' is not one of fp32, bf16, tf32"),
        ({"documents": ["abc"], "stride": 100}, "a stride of 100 is not between 1 and the sequence length"),
    ],
)
def test_wrong_input(model, given, message):
    with pytest.raises(UserError, match=message):
        gpt2dist.evaluate(model, **given)
