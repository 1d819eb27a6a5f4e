"""The examples run, here on less text and for fewer steps."""

import runpy

import gpt2dist
from tests.support import REPOSITORY
from tests.support.ranks import run_ranks


def run_example(home):
    example = runpy.run_path(str(REPOSITORY / "examples/in_python.py"))
    text = "\n\n".join(f"The document {number} says: {'abc ' * (number % 7)}" for number in range(150))
    example["main"](text, home, steps=3)


def test_in_python(tmp_path, capfd):
    run_ranks(run_example, 1, tmp_path / "home")
    out = capfd.readouterr().out
    assert "tokens, such as [[" in out and "bits per byte" in out and "loss " in out and "3 points" in out
    assert gpt2dist.Run(tmp_path / "home/run").status.state == "finished"
    for name in ("report.html", "model/model.safetensors", "dataset/manifest.json", "tokenizer/tokenizer.json"):
        assert (tmp_path / "home" / name).is_file(), name
