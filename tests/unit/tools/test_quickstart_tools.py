"""The tools around the quickstart."""

import contextlib
import io
import json
import runpy
import subprocess
import sys

import pytest

from tests.support.ranks import run_ranks


@pytest.fixture
def tool(repository, tmp_path):
    def call(name, *arguments):
        command = [sys.executable, str(repository / "tools" / name), *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return call


def documents(path):
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_the_default_corpus_is_the_standard_library_without_its_tests(tool, tmp_path):
    assert tool("make_corpus.py", tmp_path / "c.jsonl").returncode == 0
    texts = documents(tmp_path / "c.jsonl")
    assert len(texts) > 400
    assert any("class JSONDecoder" in text for text in texts)
    assert any("topics = {" in text for text in texts)  # the manual's topics
    assert not any("class TestCase_Test" in text or "import pip._internal" in text for text in texts)


def test_a_long_document_is_cut_so_that_some_can_be_held_out(tool, tmp_path):
    text = "".join(f"line {number}\n" for number in range(5000))
    (tmp_path / "long.txt").write_text(text)
    assert tool("make_corpus.py", "c.jsonl", "long.txt").returncode == 0
    pieces = documents(tmp_path / "c.jsonl")
    assert 150 < len(pieces) <= 201
    assert "".join(pieces) == text


def test_it_is_made_once_and_again_for_other_sources(tool, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    tool("make_corpus.py", "c.jsonl", "a.txt")
    assert "there already" in tool("make_corpus.py", "c.jsonl", "a.txt").stderr
    (tmp_path / "a.txt").write_text("another")
    assert "there already" not in tool("make_corpus.py", "c.jsonl", "a.txt").stderr
    assert documents(tmp_path / "c.jsonl") == ["another"]


def test_an_input_that_is_not_there(tool):
    done = tool("make_corpus.py", "c.jsonl", "nowhere.txt")
    assert done.returncode == 2
    assert "nowhere.txt" in done.stderr and "Traceback" not in done.stderr


def test_the_report_compares_on_the_very_text_that_was_held_out(tool, tiny_dataset, tmp_path):
    import gzip

    from gpt2dist.dataset.manifest import Manifest

    totals = Manifest.load(tiny_dataset).totals("val")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/latest").write_text("step-00000007\n")
    (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1, "throughput/tokens_per_second": 1234}\n')
    result = {"bytes": totals.bytes, "bits_per_byte": 2.0, "perplexity": 9.0, "word_perplexity": 99.0}
    (tmp_path / "e.json").write_text(json.dumps(result))
    (tmp_path / "s.txt").write_text("sampled text")
    done = tool("quickstart_report.py", run, tiny_dataset, "e.json", "s.txt")
    assert done.returncode == 0, done.stderr
    corpus = sorted((tiny_dataset.parent / "corpus").iterdir())
    held_out = held_out_by_hash([path.read_text() for path in corpus], 0.1).encode()
    assert len(held_out) == totals.bytes
    expected = 8 * len(gzip.compress(held_out, 9)) / len(held_out)
    assert f"gzip -9 {expected:.3f}" in done.stdout
    assert "1,234 tokens per second" in done.stdout
    assert "step-00000007" in done.stdout and "sampled text" in done.stdout
    (tmp_path / "e.json").write_text(json.dumps(result | {"bytes": 1}))
    assert "1 were evaluated" in tool("quickstart_report.py", run, tiny_dataset, "e.json", "s.txt").stderr


def held_out_by_hash(texts, fraction):
    import hashlib

    def share(text):
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64

    return "".join(text for text in texts if share(text) < fraction)


def test_the_benchmark_of_the_data_plane_runs(tool, tiny_dataset):
    sizes = ["--megabytes", 0.3, "--rounds", 1, "--tokens", 2e6, "--documents", 2000]
    done = tool("bench/data.py", "--tokenizer", tiny_dataset, *sizes)
    assert done.returncode == 0, done.stderr
    for part in (
        "gpt2dist / encoder =",
        "gpt2dist / gigatoken =",
        "Megatron-LM  not given, skipped",
        "by the loader",
    ):
        assert part in done.stdout
    assert "torch DataLoader over np.memmap" in done.stdout and "s to the first batch; no index" in done.stdout
    assert "the sections are" in tool("bench/data.py", "--tokenizer", tiny_dataset, "nonsense").stderr


NANOGPT = """
import torch
from dataclasses import dataclass

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        print("number of parameters: few")
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas)

    def forward(self, inputs, targets):
        logits = self.table(inputs)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""
"""What the benchmark asks of nanoGPT's model.py, and no more."""


def run_stage(path, words):
    """Runs the benchmark on a forked rank, as its subprocess would, and returns what it printed."""
    sys.argv = words
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(path, run_name="__main__")
    return out.getvalue()


def test_the_benchmark_of_training_runs(repository, tmp_path, monkeypatch, capsys):
    path = str(repository / "tools/bench/train.py")
    sizes = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--vocab-size", "100", "--length", "16"]
    sizes += ["--rounds", "2", "--steps", "1"]
    (tmp_path / "model.py").write_text(NANOGPT)

    def fork(command, check):
        assert check and command[:2] == [sys.executable, path]
        (printed,) = run_ranks(run_stage, 1, path, command[1:])
        print(printed)

    monkeypatch.setattr(subprocess, "run", fork)
    words = [*sizes, "--stages", "0", "2", "--precision", "autocast_bf16", "--nanogpt", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [path, *words])
    runpy.run_path(path, run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    for stage in (0, 2):
        for part in (
            "gpt2dist / bare loop = ",
            "gpt2dist / nanoGPT = ",
            "autocast_bf16, loss auto, not compiled",
        ):
            assert any(line.startswith(f"stage {stage}: ") and part in line for line in printed)
    assert not any("number of parameters" in line for line in printed)


def test_the_benchmark_of_training_names_a_missing_nanogpt(repository, tmp_path):
    train = runpy.run_path(str(repository / "tools/bench/train.py"))
    with pytest.raises(SystemExit, match=r"model\.py; give a checkout of nanoGPT"):
        train["load_module"](tmp_path / "nowhere/model.py")
