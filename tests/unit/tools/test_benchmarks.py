"""The benchmarks of tools/bench run, on little data."""

import contextlib
import io
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
