import json
import math

import numpy as np
import pytest

import gpt2dist
from gpt2dist.errors import UserError


@pytest.fixture
def run(run_directory):
    return gpt2dist.Run(run_directory)


def test_metrics_are_columns(run):
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    metrics = run.metrics()
    assert metrics.keys() == {tag for line in lines for tag in line} - {"step"}
    steps, losses = metrics["train/loss"]
    assert steps.tolist() == [1, 2, 3, 4] and losses.dtype == np.float64
    assert losses.tolist() == [line["train/loss"] for line in lines if "train/loss" in line]
    assert metrics["eval/val/loss"].steps.tolist() == [4]
    assert metrics["samples/0"].values[0].startswith("abc")


def test_a_number_that_was_not_finite_is_nan(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 2, "train/loss": null}\n{"step": 2, "tim')
    metrics = gpt2dist.Run(tmp_path).metrics()
    assert metrics["train/loss"].steps.tolist() == [1] and math.isnan(metrics["train/loss"].values[0])


def test_what_its_directory_holds(run):
    assert (run.status.state, run.status.step, run.config.schedule.total_steps) == ("finished", 4, 4)
    assert [path.name for path in run.checkpoints] == ["step-00000002", "step-00000004"]
    assert [(each.name, each.step) for each in run.evaluations] == [("val", 4)]
    assert repr(run) == f"Run('{run.directory}')"


def test_a_report(run, tmp_path):
    assert run.report(tmp_path / "report.html") == tmp_path / "report.html"
    assert "<svg" in (tmp_path / "report.html").read_text()
    with pytest.raises(UserError, match="is a file; name a directory"):
        run.report(tmp_path / "report.html/again.html")


def test_another_directory_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run directory; `gpt2dist status DIR` lists those in a folder"):
        gpt2dist.Run(tmp_path)
