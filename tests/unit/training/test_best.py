import json

import pytest
import torch

from gpt2dist.config import Config
from gpt2dist.distributed.world import World
from gpt2dist.evaluation import measures
from gpt2dist.evaluation.measures import Measure
from gpt2dist.run.metrics_file import MetricsHistory
from gpt2dist.training.best import BestSoFar

ALONE = World(0, 0, 1, torch.device("cpu"))
TAG = "eval/val/loss"


def best_of(run, values, saved, step=100, done=True, tag=TAG, patience=None, state=None):
    """Return the best after a start at a step; `values` are those in metrics.jsonl, by step."""
    lines = [{"step": at, "time": 1.0, TAG: value} for at, value in values.items()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for at in saved:
        (run / f"checkpoints/step-{at:08d}").mkdir(parents=True, exist_ok=True)
        (run / f"checkpoints/step-{at:08d}/manifest.json").touch()
    settings = {
        "run": {"output_dir": run},
        "checkpoint": {"keep_best": tag},
        "evaluation": {"patience": patience},
    }
    best = BestSoFar(Config.model_validate(settings))
    best.begin(ALONE, step, done, state or {})
    return best


@pytest.mark.parametrize(
    ("values", "saved", "start", "step", "waited"),
    [
        ({10: 3.0, 20: 2.0, 30: 2.0}, [20, 30], {}, 20, 1),  # an equal one is no better
        ({10: 3.0, 20: 2.0, 30: 1.0}, [10, 20, 30], {"step": 20}, 20, 0),  # what comes after is abandoned
        ({10: 3.0, 20: 2.0}, [10, 20], {"step": 20, "done": False}, 10, 0),  # its evaluation is repeated
        ({10: 1.0, 20: 3.0, 30: 2.0}, [20, 30], {}, 30, 2),  # the checkpoint of the best is gone
        ({10: None, 20: 3.0, 30: None}, [10, 20, 30], {}, 20, 1),  # not finite
        ({10: 3.0}, [], {}, None, 0),
        ({}, [10], {}, None, 0),
    ],
)
def test_the_best_follows_from_the_record_and_the_checkpoints(tmp_path, values, saved, start, step, waited):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best").write_text("step-00000099\n")
    best = best_of(tmp_path, values, saved, **start)
    assert (best.step, best.waited) == (step, waited)
    named = tmp_path / "checkpoints/best"
    assert (named.read_text() if named.exists() else None) == (step and f"step-{step:08d}\n")


def test_without_the_key_nothing_is_touched(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best").write_text("step-00000010\n")
    best = best_of(tmp_path, {10: 1.0}, [], tag=None)
    assert (best.step, best.exhausted) == (None, False)
    assert (tmp_path / "checkpoints/best").read_text() == "step-00000010\n"


@pytest.mark.parametrize(("better", "step"), [("lower", 20), ("higher", 10)])
def test_the_measure_decides_what_is_better(tmp_path, monkeypatch, better, step):
    own = Measure(key="loss", title="own", better=better, value=lambda sums: 1.0)
    monkeypatch.setattr(measures, "in_use", lambda task, named: (own,))
    assert best_of(tmp_path, {10: 3.0, 20: 2.0}, [10, 20]).step == step


def test_patience_ends_the_run_at_its_last_evaluation(tmp_path):
    values = {10: 1.0, 20: 2.0, 30: 2.0}
    assert [best_of(tmp_path, values, [10], patience=patience).exhausted for patience in (1, 2, 3, None)] == [
        *(True, True),
        *(False, False),
    ]


def test_what_a_checkpoint_says_of_the_evaluations_stands_for_the_lines_before(tmp_path, monkeypatch):
    values = {step: 10.0 / step for step in range(10, 300, 10)}
    read = best_of(tmp_path, values, [280, 290], step=300, patience=3)
    assert (read.step, read.waited, read.state()) == (290, 0, {"metric": TAG, "record": 10 / 290, "waited": 0})
    monkeypatch.setattr(MetricsHistory, "containing", None)  # reads all lines
    for waited in (2, 3):
        state = {"metric": TAG, "record": 0.01, "waited": waited}
        told = best_of(tmp_path, values, [280, 290], step=300, patience=3, state=state)
        assert (told.step, told.waited, told.exhausted, told.state()) == (290, waited, waited == 3, state)


@pytest.mark.parametrize(
    "state", [{"metric": "eval/val/perplexity", "record": 0.1, "waited": 7}, {"metric": TAG, "waited": "7"}]
)
def test_a_state_of_another_metric_or_a_damaged_one_is_not_used(tmp_path, state):
    best = best_of(tmp_path, {10: 3.0, 20: 4.0}, [10], state=state)
    assert best.state() == {"metric": TAG, "record": 3.0, "waited": 1}
