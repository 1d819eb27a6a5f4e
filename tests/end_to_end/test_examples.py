"""The examples run, here on less text and for fewer steps."""

import json
import math
import random
import re
import runpy

import pytest
import yaml
from transformers import GPT2LMHeadModel, pipeline

import gpt2dist
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.tokenizer.tokenizer import train_bpe
from tests.support import REPOSITORY
from tests.support.commands import launch
from tests.support.ranks import run_ranks
from tests.support.small_models import make_model

EXAMPLES = REPOSITORY / "examples"
TINY = [
    *("model.n_layer=1", "model.n_embd=32", "data.sequence_length=64", "data.stride=64", "evaluation.stride=32"),
    *("schedule.total_steps=6", "schedule.warmup_steps=1", "monitoring.log_every_steps=1"),
]
WORDS = {"good": ["abc", "bcd", "cde"], "bad": ["jkl", "ijk", "hij"]}
NEUTRAL = ["aaa", "fff", "gg", "lll", "k", "eee"]
CHINESE = ["春天", "山水", "明月", "故人", "清风", "白云", "江南", "夜雨", "秋声", "长安", "青山", "流水"]


def run_example(home):
    example = runpy.run_path(str(EXAMPLES / "in_python.py"))
    text = "\n\n".join(f"The document {number} says: {'abc ' * (number % 7)}" for number in range(150))
    example["main"](text, home, steps=3)


def test_in_python(tmp_path, capfd):
    run_ranks(run_example, 1, tmp_path / "home")
    out = capfd.readouterr().out
    assert "tokens, such as [[" in out and "bits per byte" in out and "loss " in out and "3 points" in out
    assert gpt2dist.Run(tmp_path / "home/run").status.state == "finished"
    for name in ("report.html", "model/model.safetensors", "dataset/manifest.json", "tokenizer/tokenizer.json"):
        assert (tmp_path / "home" / name).is_file(), name


def start(name, *words, **environment):
    """Run a script of examples/ to its end, and return its standard output."""
    settings = [f"{key}={value}" for key, value in environment.items()]
    done = launch(["env", *settings, "bash", str(EXAMPLES / name), *map(str, words)], timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


def texts(number, seed, longest=12):
    """Texts of neutral words and one that decides the label, with their labels."""
    draw = random.Random(seed)
    for _ in range(number):
        label = draw.choice(["good", "bad"])
        words = draw.choices(NEUTRAL, k=draw.randint(3, longest))
        words.insert(draw.randint(0, len(words)), draw.choice(WORDS[label]))
        yield " ".join(words), label


def write_lines(path, records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The directory of the first example, which the last two go on from, and what it printed."""
    home = tmp_path_factory.mktemp("pretrain")
    articles = [{"title": str(number), "text": text} for number, (text, _) in enumerate(texts(120, 0, 60))]
    path = write_lines(home / "articles.jsonl", [*articles, *articles[:20]])
    out = start("pretrain_jsonl.sh", path, home / "out", *TINY, VOCAB=300, HELD_OUT=0.2, PROMPT="aaa")
    return home / "out", out


def test_pretrain_jsonl(pretrained):
    home, out = pretrained
    dataset = Manifest.load(home / "dataset")
    documents = {split: dataset.totals(split).documents for split in dataset.splits}
    assert sum(documents.values()) == 120 and documents["val"] > 10, "equal articles count once"
    run = gpt2dist.Run(home / "run")
    assert (run.status.state, run.status.step) == ("finished", 6)
    _, losses = run.metrics()["train/loss"]
    assert losses[-1] < losses[0]
    found = read(home / "evaluation.json")
    (printed,) = re.findall(r"bits per byte +([\d.]+)$", out, re.M)
    assert 0 < found["bits_per_byte"] < 8 and float(printed) == pytest.approx(found["bits_per_byte"], rel=1e-4)
    assert out.count("-" * 80) == 1, "two samples"
    assert "<html" in (home / "report.html").read_text(encoding="utf-8")


def test_chinese(tmp_path):
    draw = random.Random(1)
    lines = ["".join(draw.choices(CHINESE, k=draw.randint(6, 30))) + "。" for _ in range(150)]
    (tmp_path / "poems.txt").write_text("\n".join(lines), encoding="utf-8")
    out = start("chinese.sh", tmp_path / "poems.txt", tmp_path / "out", *TINY, VOCAB=300)
    found = {kind: read(tmp_path / f"out/{kind}.json") for kind in ("char", "bpe")}
    for kind, result in found.items():
        assert f"{kind}.json" in out and f"{result['bits_per_byte']:.4f}" in out
        bits = result["bits_per_byte"] * result["bytes"] * math.log(2)
        assert bits == pytest.approx(math.log(result["perplexity"]) * result["targets"])
    assert found["char"]["bytes"] == found["bpe"]["bytes"] > 500, "the same held-out text"
    assert found["char"]["targets"] != found["bpe"]["targets"]
    characters = len(set("".join(lines)))
    assert Manifest.load(tmp_path / "out/char").vocab_size == characters + 1
    assert (tmp_path / "out/report.html").is_file()


def test_finetune_jokes(tmp_path):
    jokes = [text for text, _ in texts(250, 2)]
    write_lines(tmp_path / "jokes.jsonl", [{"text": text} for text in jokes])
    make_model(n_layer=1).save_pretrained(tmp_path / "gpt2")
    train_bpe(jokes, 300).save(tmp_path / "gpt2")
    small = [
        *("precision=fp32", "data.sequence_length=48", "data.stride=36", "evaluation.stride=24"),
        *("schedule.total_tokens=", "schedule.total_steps=20", "schedule.warmup_steps=1", "optimizer.lr=5e-3"),
        *("evaluation.every_steps=10", "monitoring.log_every_steps=1"),
    ]
    out = start(
        "finetune_jokes.sh", tmp_path / "jokes.jsonl", tmp_path / "gpt2", tmp_path / "out", *small, PROMPT="aaa"
    )
    before, after = (read(tmp_path / f"out/{name}.json") for name in ("before", "after"))
    assert before["targets"] == after["targets"]
    assert after["bits_per_byte"] < 0.9 * before["bits_per_byte"]
    samples = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert [(each["prompt"], each["seed"]) for each in samples] == [("aaa", seed) for seed in (1, 2, 3)]
    assert (
        len({each["text"] for each in samples}) == 3
        and samples[0]["text"] in json.loads(out.splitlines()[-3])["text"]
    )
    config = yaml.safe_load((tmp_path / "out/run/config.yaml").read_text())
    assert config["data"]["document_boundaries"] == "isolate"
    assert config["model"]["init_from"] == str(tmp_path / "gpt2")


def test_classify(pretrained, tmp_path):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs it")
    examples = [{"text": text, "label": label} for text, label in texts(300, 3, 7)]
    path = write_lines(tmp_path / "labelled.jsonl", examples)
    out = start(
        "classify.sh", path, pretrained[0] / "run", tmp_path / "out", EPOCHS=8, LR=1e-2, TEXT="gg abc k lll"
    )
    accuracy, number, always = re.search(r"^accuracy ([\d.]+) on (\d+) .*: ([\d.]+)$", out, re.M).groups()
    assert 40 < int(number) < 80
    assert float(accuracy) > float(always) + 0.2
    assert out.splitlines()[-1].startswith("'gg abc k lll': good (")
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "out/model").config.n_embd == 32
    assert pipeline("text-classification", model=str(tmp_path / "out/classifier"))("jkl gg")[0]["label"] == "bad"


def test_cluster(pretrained, tmp_path):
    config = pretrained[0] / "run/config.yaml"
    volume = f"training:{pretrained[0].parent.parent}"
    out = start("cluster.sh", config, tmp_path / "out", "schedule.total_steps=3", GPUS=2, VOLUME=volume)
    script = (tmp_path / "out/slurm.sh").read_text()
    assert "#SBATCH --nodes=2" in script and "#SBATCH --time=24:00:00" in script
    kinds = [each["kind"] for each in yaml.safe_load_all((tmp_path / "out/kubernetes.yaml").read_text()) if each]
    assert "Job" in kinds
    for name in ("slurm", "kubernetes"):
        assert [path.name for path in (tmp_path / "out" / name).iterdir()] == ["submission"], "nothing ran"
    status = gpt2dist.Run(tmp_path / "out/local").status
    assert (status.state, status.step) == ("finished", 3)
    assert re.search(r"state +finished", out) and "2 ranks" in out
    assert (tmp_path / "out/report.html").is_file()


def test_the_table_has_every_example():
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    names = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh"))
    assert sorted(re.findall(r"^\| \[([\w.]+)\]\(\1\) \|", table, re.M)) == names
