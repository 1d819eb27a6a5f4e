import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from gpt2dist.evaluation.measures import RESERVED
from tests.support.outside_measures import HERE

PASSAGES = ["abc def ghi", "jkl  abc", "fed"]


@pytest.fixture
def lambada(gpt2dist, small_model, tmp_path):
    path = tmp_path / "passages.jsonl"

    def call(*options, passages=PASSAGES, field="text", model=small_model):
        path.write_text("".join(json.dumps({field: text}) + "\n" for text in passages))
        return gpt2dist("lambada", model, "--data", path, *options)

    return call


def test_the_json_has_the_keys_of_the_contract(lambada):
    code, out, err = lambada("--json")
    assert code == 0, err
    result = json.loads(out)
    assert set(result) == {
        *("accuracy", "perplexity", "nll_sum", "examples", "targets", "batch_size", "zero_stage", "world_size"),
        *("model", "data", "tokenizer", "dtype", "seconds", "tokens_per_second"),
    }
    assert set(result) <= RESERVED
    assert result["examples"] == 3 and result["perplexity"] > 1
    assert "lambada: 100%" in err


def test_the_table_goes_to_standard_output_and_the_file_holds_the_same(lambada, tmp_path):
    code, out, _ = lambada("--output", tmp_path / "deep/result.json", "--text-field", "page", field="page")
    assert code == 0
    result = json.loads((tmp_path / "deep/result.json").read_text())
    assert f"{result['perplexity']:,.4f} per last word" in out
    assert f"{result['accuracy']:.4f}" in out


def test_a_measure_of_another_package(lambada, tmp_path):
    code, out, _ = lambada("--output", tmp_path / "result.json", "--measure", HERE + "LAST_WORD_LOSS")
    result = json.loads((tmp_path / "result.json").read_text())
    assert code == 0 and result["last_word_loss"] == result["nll_sum"] / 3
    assert result["measures"]["last_word_loss"]["title"] == "last-word loss"
    assert f"last-word loss  {result['last_word_loss']:.4f} nats\n" in out
    code, _, err = lambada("--measure", HERE + "NATS_PER_WORD")
    assert code == 2 and "is a measure of the task 'text', not 'last_words'; omit it" in err


def test_the_batch_size_changes_only_the_speed(lambada):
    one, many = (json.loads(lambada("--json", "--batch-size", size)[1]) for size in (1, 8))
    assert one["nll_sum"] == pytest.approx(many["nll_sum"], rel=1e-6)
    assert one["accuracy"] == many["accuracy"]


def test_what_does_not_fit_in_json_is_null(lambada, small_model, tmp_path):
    """A model that is sure of what is not there: the perplexity overflows."""
    sure = shutil.copytree(small_model, tmp_path / "sure")
    weights = load_file(sure / "model.safetensors")
    weights["transformer.ln_f.weight"] *= 1e5
    save_file(weights, sure / "model.safetensors", {"format": "pt"})
    code, out, _ = lambada("--json", model=sure)
    result = json.loads(out)
    assert code == 0 and result["perplexity"] is None and result["nll_sum"] > 1e3


@pytest.mark.parametrize(
    ("options", "passages", "message"),
    [
        (["--batch-size", "0"], PASSAGES, "--batch-size must be at least 1"),
        (["--output", "/"], PASSAGES, "--output: / is a directory; name a file, such as /output"),
        ([], ["abc def", "abc "], "passage 2 has no last word: 'abc '; each must end with the word to guess"),
        ([], [""], "passage 1 has no last word: ''"),
        ([], [], "there are no passages; each line must be an object with a text"),
        (["--text-field", "page"], PASSAGES, "passages.jsonl:1: "),
    ],
)
def test_refusals(lambada, options, passages, message):
    code, _, err = lambada(*options, passages=passages)
    assert code == 2
    assert message in err and "Traceback" not in err


def test_passages_in_another_encoding(gpt2dist, small_model, tmp_path):
    text = "the quick brown café"
    results = []
    for encoding in ("utf-8", "latin-1", "utf-16"):
        path = tmp_path / f"{encoding}.jsonl"
        path.write_bytes(json.dumps({"text": text}, ensure_ascii=False).encode(encoding))
        options = ("--encoding", encoding) if encoding == "latin-1" else ()
        code, out, err = gpt2dist("lambada", small_model, "--data", path, "--json", *options)
        assert code == 0, err
        results.append(json.loads(out)["data"])
    assert len(set(results)) == 1
    code, out, err = gpt2dist("lambada", small_model, "--data", tmp_path / "latin-1.jsonl")
    assert (code, out) == (2, "")
    assert "latin-1.jsonl:1: is not Unicode (1 characters are not valid UTF-8; --encoding NAME reads other" in err


def test_no_such_file_and_no_such_model(gpt2dist, small_model, lambada, tmp_path):
    code, _, err = gpt2dist("lambada", small_model, "--data", tmp_path / "nowhere.jsonl")
    assert code == 2 and "nowhere.jsonl" in err
    code, _, err = lambada(model=tmp_path)
    assert code == 2 and "no model there" in err
