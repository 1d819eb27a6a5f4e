import gzip
import hashlib
import json
import sys

import pytest

from gpt2dist.dataset.manifest import Manifest
from gpt2dist.errors import RunError
from gpt2dist.quickstart.report import program, table, verdict


def held_out_by_hash(texts, fraction):
    def share(text):
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64

    return "".join(text for text in texts if share(text) < fraction)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run/checkpoints/step-00000007").mkdir(parents=True)
    (tmp_path / "run/checkpoints/latest").write_text("step-00000007\n")
    line = '{"step": 1, "train/loss": 1, "throughput/tokens_per_second": 1234}\n'
    (tmp_path / "run/metrics.jsonl").write_text(line)
    return tmp_path / "run"


def test_the_report_compares_on_the_text_that_was_held_out(run, tiny_dataset, tmp_path):
    totals = Manifest.load(tiny_dataset).totals("val")
    result = {"bytes": totals.bytes, "bits_per_byte": 2.0, "perplexity": 9.0, "word_perplexity": 99.0}
    evaluation = tmp_path / "e.json"
    evaluation.write_text(json.dumps(result))
    shown = table(run, tiny_dataset, evaluation, "sampled text\n")
    corpus = sorted((tiny_dataset.parent / "corpus").iterdir())
    held_out = held_out_by_hash([path.read_text() for path in corpus], 0.1).encode()
    assert len(held_out) == totals.bytes
    assert f"gzip -9 {8 * len(gzip.compress(held_out, 9)) / len(held_out):.3f}" in shown
    for part in ("1,234 tokens per second", f"{run}/checkpoints/step-00000007  (", "    sampled text\n───"):
        assert part in shown
    evaluation.write_text(json.dumps(result | {"bytes": 1}))
    with pytest.raises(RunError, match="1 were evaluated"):
        table(run, tiny_dataset, evaluation, "")


def test_a_run_of_few_steps_has_no_speed(run, tiny_dataset, tmp_path):
    (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1}\n')
    size = Manifest.load(tiny_dataset).totals("val").bytes
    result = {"bytes": size, "bits_per_byte": 2.0, "perplexity": 9.0, "word_perplexity": 99.0}
    (tmp_path / "e.json").write_text(json.dumps(result))
    assert "training speed  too few steps to measure\n" in table(run, tiny_dataset, tmp_path / "e.json", "")


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (1.0, "beats xz -9 and gzip -9"),
        (1.8, "beats gzip -9; does not beat xz -9"),
        (3.0, "does not beat xz -9 and gzip -9"),
    ],
)
def test_the_verdict(ours, expected):
    assert verdict({"gpt2dist": ours, "xz -9": 1.7, "gzip -9": 2.0}) == expected


def test_a_program_of_this_environment_is_named_from_here_where_it_is_below(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert program("tensorboard") == str(tmp_path / ".venv/bin/tensorboard")
    monkeypatch.chdir(tmp_path)
    assert program("tensorboard") == ".venv/bin/tensorboard"
