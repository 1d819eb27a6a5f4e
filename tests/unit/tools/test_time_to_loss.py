"""tools/bench/time_to_loss.py."""

import importlib.util
import json
import math
import runpy
import subprocess
import sys

import pytest

from tests.support import REPOSITORY
from tests.support.ranks import run_ranks
from tests.support.runs import write_run

BENCH = REPOSITORY / "tools/bench"
SCORING = "evaluation.every_steps=2 evaluation.stride=32 schedule.total_steps=4 schedule.warmup_steps=1"

MODEL = """
import torch
from dataclasses import dataclass

@dataclass
class GPTConfig:
    vocab_size: int

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, inputs, targets):
        return self.table(inputs), None
"""

TRAIN = """
import pickle, sys
import numpy as np, torch
from model import GPT, GPTConfig

torch.manual_seed(1337)
home = "data/" + next(word for word in sys.argv if word.startswith("--dataset=")).partition("=")[2]
sizes = pickle.load(open(home + "/meta.pkl", "rb"))
every = int(next(word for word in sys.argv if word.startswith("--eval_interval=")).partition("=")[2])
tokens = np.fromfile(home + "/train.bin", np.uint16)
open(home + "/../../config/seen", "w").write(f"{len(tokens)} {torch.initial_seed()}")
gpt = GPT(GPTConfig(**sizes))
gpt.table.weight.data.zero_()
for step in range(every, 2 * every + 1, every):
    torch.save({"model": gpt.state_dict(), "model_args": sizes, "iter_num": step}, "out/ckpt.pt")
"""
"""What the benchmark asks of nanoGPT's files, and no more. This model knows nothing: it loses log(vocab_size)."""


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("time_to_loss", BENCH / "time_to_loss.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module


def child(words):
    """Runs on a forked rank what the benchmark would start as a process."""
    sys.path.insert(0, str(BENCH))
    if words[:2] != ["-m", "gpt2dist"]:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
        return 0
    from gpt2dist.cli import main

    return main(words[2:])


@pytest.fixture
def forked(monkeypatch):
    started, real = [], subprocess.run

    def run(command, **options):
        if command[0] != sys.executable:  # git, which a run asks for its commit
            return real(command, **options)
        assert options["env"]["OMP_NUM_THREADS"] == "1"
        started.append(command[1:])
        (code,) = run_ranks(child, 1, command[1:])
        return subprocess.CompletedProcess(command, code, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return started


def test_runs_are_kept_and_only_the_missing_ones_are_trained(
    bench, forked, tiny_dataset, tmp_path, monkeypatch, capsys
):
    from gpt2dist.dataset.manifest import Manifest

    nanogpt = tmp_path / "nanoGPT"
    (nanogpt / "config").mkdir(parents=True)
    for name, text in {"model.py": MODEL, "train.py": TRAIN, "configurator.py": ""}.items():
        (nanogpt / name).write_text(text)
    recipe, output = write_run(tmp_path, tiny_dataset, validation=True), tmp_path / "results"

    def call(*rates):
        across = ["--across", SCORING, "--across", *rates]
        words = [str(recipe), "--output", str(output), "--seeds", "3", "--nanogpt", str(nanogpt), *across]
        monkeypatch.setattr(sys, "argv", ["time_to_loss.py", *words])
        bench.main()

    call("optimizer.lr=1e-3")
    assert len(forked) == 2
    call("optimizer.lr=1e-3", "optimizer.lr=2e-2 optimizer.kind=muon")
    assert len(forked) == 3
    lines = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [3, 3, 3]
    assert [[point["step"] for point in line["curve"]] for line in lines] == [[2, 4]] * 3
    assert all(0 < a["cpu_seconds"] < b["cpu_seconds"] for a, b in (line["curve"] for line in lines))
    dataset = Manifest.load(tiny_dataset)
    reference, adamw, muon = (line["curve"][-1]["loss"] for line in lines)
    assert reference == pytest.approx(math.log(dataset.vocab_size), abs=1e-6)
    assert muon < adamw < reference
    assert (nanogpt / "config/seen").read_text() == f"{dataset.totals('train').tokens} {1337 + 3}"
    printed = capsys.readouterr().out
    assert printed.strip().endswith((output / "table.md").read_text().strip().splitlines()[-1])
    assert "| nanoGPT | 1 |" in printed and "| optimizer.lr=2e-2 optimizer.kind=muon | 1 |" in printed


def test_the_table_counts_steps_and_time_to_the_reference(bench):
    def result(name, seed, *points):
        return bench.Result(name, seed, tuple(bench.Point(*point) for point in points))

    results = [
        result("nanoGPT --x", 0, (50, 10, 3.0), (100, 20, 2.0)),
        result("a k=1", 0, (50, 12, 2.0), (100, 24, 1.0)),
        result("nanoGPT --x", 1, (50, 20, 3.0), (100, 40, 2.1)),
        result("a k=1", 1, (50, 12, 2.1), (100, 24, 1.2)),
        result("a k=2", 0, (50, 12, 2.5), (100, 24, 2.2)),
    ]
    header, _, reference, first, second = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in bench.table(results, None).splitlines()
    )
    assert header[2:8] == [
        "loss at 25 steps",
        "loss at 50 steps",
        "loss at 100 steps",
        "at 8 s of CPU time",
        "at 15 s of CPU time",
        "at 30 s of CPU time",
    ]
    assert header[-2] == "steps to 2.0000 ÷ 100"
    assert reference[:5] == ["nanoGPT", "2", "–", "3.0000", "2.0500 (2.0000–2.1000)"]
    assert first[0] == "k=1"
    assert first[6] == "1.8125 (1.7500–1.8750)"  # a quarter of the way from 12 to 24 seconds
    assert first[-2] == "0.750 (0.500–1.000)"  # seed 1 is above 2.0 at step 50
    assert first[-1] == "0.600"  # 12 / 20 and 24 / 40
    assert second[-2:] == ["–", "–"]  # never


def test_a_failed_run_shows_what_it_printed(bench, monkeypatch):
    done = subprocess.CompletedProcess([], 2, "", "run.yaml: no such file\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(SystemExit, match=r"run\.yaml: no such file\n-m gpt2dist train run\.yaml failed"):
        bench.call(["-m", "gpt2dist", "train", "run.yaml"], 1)


def test_a_missing_nanogpt_is_named(bench, tmp_path, monkeypatch):
    words = ["x.yaml", "--output", str(tmp_path), "--nanogpt", str(tmp_path / "nowhere")]
    monkeypatch.setattr(sys, "argv", ["time_to_loss.py", *words])
    with pytest.raises(SystemExit, match=r"no .*nowhere/train\.py; give a checkout of nanoGPT"):
        bench.main()
