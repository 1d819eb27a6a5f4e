"""Models whose tokenizer changes or loses text: every verb works, and says so where bytes count."""

import json
import math

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from gpt2dist.commands.generate import _Screen
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support import other_tokenizers
from tests.support.other_tokenizers import TEXTS, saved

KINDS = {"gpt_neox": None, "bert": "[SEP]", "t5": "</s>"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("others")
    (home / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for name, eos_token in KINDS.items():
        saved(getattr(other_tokenizers, name)(), home / name, eos_token)
        tokenizer = Tokenizer.load(home / name)
        torch.manual_seed(0)
        end = {"bos_token_id": tokenizer.end_of_text_id, "eos_token_id": tokenizer.end_of_text_id}
        sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 1}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=tokenizer.vocab_size, **sizes, **end))
        model.save_pretrained(home / f"{name}-model")
        tokenizer.save(home / f"{name}-model")
    return home


@pytest.mark.parametrize("name", KINDS)
def test_from_text_to_a_published_model(home, name, gpt2dist, tmp_path):
    corpus, model, data = home / "a.jsonl", home / f"{name}-model", tmp_path / "data"
    lossy = ["--lossy"] * (name != "gpt_neox")
    file = home / name / "tokenizer.json"
    code, _, err = gpt2dist("preprocess", corpus, "--tokenizer", file, "--output", data, "--workers", 1, *lossy)
    assert code == 0 and "WARNING: " in err
    how = ("lossy", "normalizer")[name == "gpt_neox"]
    changes = Manifest.load(data).text_changes
    assert changes[how]
    code, out, _ = gpt2dist("inspect", data, "--verify")
    assert code == 0 and f"documents whose tokens do not restore every byte: {changes['documents']}" in out

    results = []
    for source in (["--data", data], ["--text", corpus]):
        code, out, err = gpt2dist("evaluate", model, *source, "--json", "--output", tmp_path / "scores.json")
        assert code == 0, err
        results.append(json.loads(out))
    size = sum(len(text.encode()) for text in TEXTS)
    for result in results:
        assert result["text_changes"] == changes and result["bytes"] == size
        assert result["nll_sum"] == results[0]["nll_sum"]
        assert math.isclose(result["bits_per_byte"], result["nll_sum"] / math.log(2) / size)
    assert "text changes  " in gpt2dist("evaluate", model, "--text", corpus)[1]

    output = tmp_path / "model"
    code, _, err = gpt2dist("export", model, "--output", output, "--results", tmp_path / "scores.json")
    assert code == 0, err
    card = ModelCard.load(output / "README.md").content
    kind = {"gpt_neox": "byte-level BPE after the normalizer NFC", "bert": "WordPiece, which may lose some"}
    assert kind.get(name, "Unigram, which may lose some") in card
    assert "documents whose tokens do not restore every byte" in card
    theirs, ours = AutoTokenizer.from_pretrained(output), Tokenizer.load(output)
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text).tolist()


def test_generated_text_is_joined_to_its_prompt(home, gpt2dist):
    options = ("--prompt", "the quick", "--max-new-tokens", "5", "--temperature", "0")
    code, out, err = gpt2dist("generate", home / "bert-model", *options, "--json")
    assert code == 0, err
    added = json.loads(out)["text"]
    assert gpt2dist("generate", home / "bert-model", *options)[1] == f"the quick{added}\n"


def test_a_terminal_shows_words_with_spaces(home, capsys):
    tokenizer = Tokenizer.load(home / "bert")
    screen = _Screen(tokenizer)
    screen.begin("the")
    for token in tokenizer.encode("quick brown theory").tolist():
        screen.add([token])
    screen.end()
    assert capsys.readouterr().out == "the quick brown theory\n"


def test_lambada_says_what_the_tokenizer_does(home, gpt2dist, tmp_path):
    (tmp_path / "passages.jsonl").write_text('{"text": "the quick brown fox"}\n')
    code, out, err = gpt2dist("lambada", home / "bert-model", "--data", tmp_path / "passages.jsonl", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["targets"] == 1 and result["text_changes"]["lossy"].startswith("it is WordPiece")


@pytest.mark.parametrize("name", KINDS)
def test_adopt(home, name, gpt2dist, tmp_path):
    tokenizer = Tokenizer.load(home / name)
    ids = [np.append(tokenizer.encode(text), tokenizer.end_of_text_id) for text in TEXTS]
    np.concatenate(ids).astype(np.uint16).tofile(tmp_path / "train.bin")
    words = (
        "adopt",
        tmp_path / "train.bin",
        "--format",
        "nanogpt",
        "--tokenizer",
        home / name / "tokenizer.json",
    )
    words += ("--output", tmp_path / "data")
    if name != "gpt_neox":
        code, _, err = gpt2dist(*words)
        assert code == 2 and "may lose some of the text" in err and not (tmp_path / "data").exists()
        words += ("--lossy",)
    code, _, err = gpt2dist(*words)
    assert (
        code == 0 and "bytes and words were counted in the decoded tokens, because the source is not known" in err
    )
    manifest = Manifest.load(tmp_path / "data")
    assert manifest.text_changes == tokenizer.text_changes | {"bytes_of": "tokens"}
    texts = [tokenizer.decode(each[:-1]) for each in ids]
    totals = manifest.totals("train")
    # A lossy decoder drops the space that begins a document, which is counted.
    spaces = len(TEXTS) * (name != "gpt_neox")
    assert (totals.documents, totals.bytes) == (4, sum(len(text.encode()) for text in texts) + spaces)
    assert totals.words == sum(len(text.split()) for text in texts)
    assert gpt2dist("inspect", tmp_path / "data", "--verify")[0] == 0


def test_a_file_that_is_missing_is_no_name_on_the_hub(home, gpt2dist, tmp_path):
    words = ("preprocess", home / "a.jsonl", "--output", tmp_path / "data", "--tokenizer")
    code, _, err = gpt2dist(*words, "missing/tokenizer.json")
    assert code == 2 and "missing/tokenizer.json: no such file; name a tokenizer.json" in err


def test_import_of_berts_vocabulary(home, gpt2dist, tmp_path):
    names = json.loads((home / "bert" / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "vocab.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    words = ("tokenizer", "import", "--vocab", tmp_path / "vocab.txt", "--output", tmp_path / "bert")
    code, _, err = gpt2dist(*words)
    assert code == 0 and "end-of-text '[SEP]' has the id 3" in err
    assert "nothing to do" in gpt2dist(*words)[2]
    assert Tokenizer.load(tmp_path / "bert").encode(TEXTS[0]).tolist() == (
        Tokenizer.load(home / "bert").encode(TEXTS[0]).tolist()
    )
    code, _, err = gpt2dist(*words, "--merges", "x")
    assert code == 2 and "has no merges; omit --merges" in err
    code, _, err = gpt2dist("tokenizer", "import", "--vocab", "encoder.json", "--output", tmp_path / "gpt2")
    assert code == 2 and "--vocab encoder.json: needs --merges vocab.bpe" in err
