"""A measure of another package, from training and evaluation to the page and the card.

What reads the results does not have the package: the files say how the measure is written.
"""

import json
import re

import pytest

from gpt2dist.cli import main
from gpt2dist.distributed.world import leave
from tests.support.events import events, points
from tests.support.outside_measures import HERE
from tests.support.packages import installed
from tests.support.runs import metrics, train, write_run


@pytest.fixture
def gpt2dist(capsys):
    """Runs a command here; returns its standard output and standard error."""

    def call(*words):
        try:
            code = main([str(word) for word in words])
        finally:
            leave()
        out, err = capsys.readouterr()
        assert code == 0, err
        return out, err

    return call


@pytest.fixture
def run(tiny_dataset, tmp_path):
    """A run of two steps, made where a package is installed that offers the measure."""
    with installed(tmp_path / "site", "toy", "gpt2dist.measures", nats_per_word=HERE + "NATS_PER_WORD"):
        config = write_run(tmp_path, tiny_dataset, validation=True)
        return train(config, "schedule.total_steps=2", "schedule.warmup_steps=1", "monitoring.tensorboard=true")


def test_a_measure_from_outside_is_shown_wherever_ours_are(gpt2dist, run, tiny_dataset, tmp_path):
    validated = json.loads((run / "eval/step-00000002.json").read_text())["val"]
    expected = validated["nll_sum"] / validated["words"]
    assert validated["nats_per_word"] == expected
    assert metrics(run, "eval/val/nats_per_word") == [expected]
    ((step, value),) = points(events(run / "tensorboard"), "eval/val/nats_per_word")
    assert (step, value) == (2, pytest.approx(expected))

    named = ("--measure", HERE + "NATS_PER_WORD")
    words = ("evaluate", run, "--data", tiny_dataset, "--run", run, "--name", "wiki", *named)
    shown, _ = gpt2dist(*words)
    result = json.loads((run / "eval/wiki/step-00000002.json").read_text())
    assert result["nats_per_word"] == result["nll_sum"] / result["words"]
    assert re.search(rf"^ *nats per word  {result['nats_per_word']:,.4f}$", shown, re.M)
    ((step, value),) = points(events(run / "tensorboard/wiki"), "eval/wiki/nats_per_word")
    assert (step, value) == (2, pytest.approx(result["nats_per_word"]))

    known = {each["name"]: each for each in json.loads(gpt2dist("status", run, "--json")[0])["evaluations"]}
    assert known["val"]["nats_per_word"] == expected
    assert known["wiki"]["nats_per_word"] == result["nats_per_word"]
    assert f", {expected:.4f} nats per word at 2" in gpt2dist("status", run)[0]

    gpt2dist("report", run, "--output", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert ">Nats per word (lower is better)</figcaption>" in page
    assert f", {expected:.4f} nats per word" in page

    gpt2dist("export", run, "--output", tmp_path / "model")
    card = (tmp_path / "model/README.md").read_text()
    assert "bits per byte | word perplexity | word perplexity (lm-eval) | nats per word | how |" in card
    assert f"| {expected:,.4f} | sequence length 32" in card
    assert "Nats per word is Σ nll / words; lower is better." in card
    assert "metric" in card and "nats_per_word" in card


def test_a_configuration_names_measures(tiny_dataset, tmp_path, capsys):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    words = ("validate", str(config), "--world-size", "1")
    assert main([*words, f"evaluation.measures=[{HERE}NATS_PER_WORD]"]) == 0
    assert main([*words, f"evaluation.measures=[{HERE}STRIDE]"]) == 2
    err = capsys.readouterr().err
    assert f"evaluation.measures: {HERE}STRIDE: results have another value under the key 'stride'" in err


def test_a_wrong_measure_is_refused_before_the_model_is_looked_for(tiny_dataset, tmp_path, capsys):
    words = ("evaluate", str(tmp_path / "no-model"), "--data", str(tiny_dataset), "--measure", HERE + "RAISES")
    assert main(words) == 2
    assert f"gpt2dist evaluate: {HERE}RAISES fails on Sums(" in capsys.readouterr().err
