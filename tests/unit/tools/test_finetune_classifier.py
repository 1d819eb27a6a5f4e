"""tools/finetune_classifier.py, as the guide on classification starts it."""

import importlib.util
import json
import os
import random
import subprocess
import sys

import pytest
from transformers import pipeline

from gpt2dist.publishing.exporter import export
from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support.small_models import make_model

needs_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="transformers' Trainer needs accelerate"
)
WORDS = {"good": ["abc", "bcd", "cde"], "bad": ["jkl", "ijk", "hij"]}
NEUTRAL = ["aaa", "fff", "gg", "lll", "k", "eee"]


@pytest.fixture(scope="module")
def exported(tiny_dataset, tmp_path_factory):
    """An exported model."""
    home = tmp_path_factory.mktemp("classifier")
    make_model(n_layer=2).save_pretrained(home / "checkpoint")
    Tokenizer.load(tiny_dataset).save(home / "checkpoint")
    export(home / "checkpoint", home / "model", "bfloat16", lambda exported: "")
    return home / "model"


@pytest.fixture
def classify(repository, exported, tmp_path):
    """Runs the tool on a file of examples: `classify(lines, *options)`."""

    def call(lines, *options):
        (tmp_path / "labelled.jsonl").write_text("".join(f"{line}\n" for line in lines))
        command = [sys.executable, str(repository / "tools/finetune_classifier.py"), str(exported)]
        command += ["labelled.jsonl", "--output", "classifier", *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    return call


def examples(number, seed=0):
    """Texts of neutral words and one that decides, somewhere among them."""
    draw = random.Random(seed)
    for _ in range(number):
        label = draw.choice(["good", "bad"])
        words = draw.choices(NEUTRAL, k=draw.randint(1, 7))
        words.insert(draw.randint(0, len(words)), draw.choice(WORDS[label]))
        yield json.dumps({"text": " ".join(words), "label": label})


@needs_accelerate
def test_it_learns_to_tell_labels_apart(classify, tmp_path):
    lines = list(examples(300))
    done = classify(lines, "--epochs", "6", "--lr", "3e-3")
    assert done.returncode == 0, done.stderr
    verdict = done.stdout.splitlines()[-2]
    words = verdict.split()
    assert words[0] == "accuracy" and float(words[1]) >= 0.95, verdict
    assert 0.4 < float(words[-1]) < 0.7  # of always guessing the same
    assert 40 < int(words[3]) < 80  # a fifth

    # What was written labels new texts, one by one and in padded batches.
    classifier = pipeline("text-classification", model=str(tmp_path / "classifier"))
    new = [json.loads(line) for line in examples(40, seed=1)]
    texts = [example["text"] for example in new]
    alone = [classifier(text)[0]["label"] for text in texts]
    assert sum(label == example["label"] for label, example in zip(alone, new, strict=True)) >= 36
    assert [out["label"] for out in classifier(texts, batch_size=8)] == alone


@needs_accelerate
def test_whole_numbers_are_labels_too_and_texts_to_test_on_may_be_given(classify, tmp_path):
    numbered = [line.replace('"good"', "1").replace('"bad"', "0") for line in examples(40)]
    (tmp_path / "test.jsonl").write_text("\n".join(numbered[:10]))
    done = classify(numbered[10:], "--held-out", "test.jsonl", "--epochs", "0.5")
    assert done.returncode == 0, done.stderr
    assert "on 10 held-out texts" in done.stdout
    config = json.loads((tmp_path / "classifier/config.json").read_text())
    assert config["id2label"] == {"0": "0", "1": "1"} and config["pad_token_id"] == 299


RIGHT = list(examples(60))


@pytest.fixture
def refusal(repository, exported, tmp_path, monkeypatch, capsys):
    """What the tool says of wrong input, in this process."""
    spec = importlib.util.spec_from_file_location("tool", repository / "tools/finetune_classifier.py")
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tool", tool)
    spec.loader.exec_module(tool)
    monkeypatch.chdir(tmp_path)

    def call(lines, *options, model=exported):
        (tmp_path / "labelled.jsonl").write_text("".join(f"{line}\n" for line in lines))
        assert tool.main([str(model), "labelled.jsonl", "--output", "classifier", *options]) == 2
        assert not (tmp_path / "classifier").exists()
        return capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*RIGHT, "nothing"], 'labelled.jsonl:61: not of the form {"text": "…", "label": "…"}'),
        ([*RIGHT, "[1, 2]"], "labelled.jsonl:61: not of the form"),
        ([*RIGHT, "", '{"text": "abc"}'], "labelled.jsonl:62: not of the form"),
        ([*RIGHT, '{"text": " ", "label": "good"}'], "labelled.jsonl:61: its text is empty or no string"),
        ([*RIGHT, '{"text": 7, "label": "good"}'], "labelled.jsonl:61: its text is empty or no string"),
        ([*RIGHT, '{"text": "a", "label": [1]}'], "labelled.jsonl:61: its label [1] is neither a string nor a"),
        (['{"text": "abc", "label": "good"}'] * 9, "its texts have 1 label(s); two are the least that can be"),
        ([], "labelled.jsonl: its texts have 0 label(s)"),
    ],
)
def test_wrong_lines_are_told_before_the_model_is_looked_for(refusal, lines, message):
    assert message in refusal(lines, model="nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "abc", "label": "ugly"}', "no text to train on has the label 'ugly'; give more of it"),
        (b"", "test.jsonl: no text to test on; give more, or others with --held-out"),
        (b"\xff\xfe", "test.jsonl: not UTF-8 text; give a file of JSON lines"),
        (None, "test.jsonl: No such file or directory; give a file of JSON lines"),
    ],
)
def test_wrong_texts_to_test_on(refusal, tmp_path, content, message):
    if content is not None:
        (tmp_path / "test.jsonl").write_bytes(content)
    assert message in refusal(RIGHT, "--held-out", "test.jsonl")


@needs_accelerate
def test_a_directory_that_is_no_model(refusal, tmp_path):
    assert "no model there" in refusal(RIGHT, model=tmp_path)


def test_without_accelerate_it_says_so(refusal, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "transformers' Trainer needs the package accelerate; pip install accelerate" in refusal(RIGHT)
