"""From text to a model that transformers loads, by the verbs alone."""

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoTokenizer, GPT2LMHeadModel, pipeline

from tests.support.commands import launch
from tests.support.runs import train, write_run


@pytest.fixture(scope="module")
def run(tiny_dataset, tmp_path_factory):
    home = tmp_path_factory.mktemp("run")
    return train(write_run(home, tiny_dataset, validation=True), "run.name=tiny", world_size=2)


def gpt2dist(*words):
    return launch([sys.executable, "-m", "gpt2dist", *map(str, words)])


def test_a_run_is_scored_exported_and_used(run, tiny_dataset, tmp_path):
    result, output = tmp_path / "held-out.json", tmp_path / "model"
    assert gpt2dist("evaluate", run, "--data", tiny_dataset, "--output", result).returncode == 0
    done = gpt2dist("export", run, "--output", output, "--dtype", "bfloat16", "--results", result)
    assert (done.returncode, done.stdout) == (0, "")
    assert [line for line in done.stderr.splitlines() if not line.startswith("gpt2dist export: ")] == []

    card = ModelCard.load(output / "README.md")
    assert card.data.model_name == "tiny"
    scored = {r.dataset_name: r.metric_value for r in card.data.eval_results if r.metric_type == "perplexity"}
    assert scored["held-out"] == pytest.approx(json.loads(result.read_text())["perplexity"])

    # What the card says is what a plain loop over the exported model says, up to its rounding.
    model = GPT2LMHeadModel.from_pretrained(output, dtype=torch.float32).eval()
    tokens = torch.from_numpy(np.fromfile(tiny_dataset / "val-00000.bin", np.uint16).astype(np.int64))
    nll = 0.0
    with torch.no_grad():
        for begin in range(0, len(tokens) - 1, 16):
            first = max(0, begin + 16 - 32)
            window = tokens[first : begin + 17]
            loss = torch.nn.functional.cross_entropy(
                model(window[None, :-1]).logits[0], window[1:], reduction="none"
            )
            nll += loss[begin - first :].sum().item()
    assert math.exp(nll / (len(tokens) - 1)) == pytest.approx(scored["held-out"], rel=5e-3)

    text = pipeline("text-generation", model=str(output))("abc")[0]["generated_text"]
    assert text.startswith("abc")
    assert AutoTokenizer.from_pretrained(output).model_max_length == 32


def test_the_checkpoint_is_pruned_under_the_export(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (checkpoint,) = (path for path in (copy / "checkpoints").iterdir() if path.is_dir())
    shutil.rmtree(checkpoint)
    done = gpt2dist("export", copy, "--output", tmp_path / "model")
    assert done.returncode == 2
    assert f"{checkpoint}: does not exist, though `latest` names it" in done.stderr


def test_an_interrupted_export_leaves_nothing(run, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from gpt2dist.publishing import exporter\n"
        "exporter.save_torch_model = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\n"
        "from gpt2dist.cli import main\n"
        f"sys.exit(main(['export', {str(run)!r}, '--output', {str(tmp_path / 'model')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 130
    assert done.stderr.endswith("gpt2dist export: interrupted\n")
    assert list(tmp_path.iterdir()) == []
