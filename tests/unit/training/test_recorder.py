import contextlib
from types import SimpleNamespace

import pytest
import torch

from gpt2dist.distributed.world import World
from gpt2dist.run.metrics_file import read
from gpt2dist.training.hooks import Hooks
from gpt2dist.training.recorder import MetricsRecorder
from tests.support.recording_tracker import MemoryTracker


def trainer(step=0, evaluation_done=True):
    return SimpleNamespace(step=step, evaluation_done=evaluation_done, world=World(0, 0, 1, torch.device("cpu")))


@contextlib.contextmanager
def recording(run, diary, trainer):
    recorder = MetricsRecorder(run, {"diary": lambda: diary}, {"optimizer.lr": 0.1})
    with Hooks([recorder], {}).running(trainer):
        yield recorder


def test_the_file_and_the_trackers_get_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 12.34567)
    diary = MemoryTracker()
    with recording(tmp_path, diary, trainer()) as recorder:
        recorder.after_log(trainer(step=3), {"train/loss": 2.5, "samples/0": "ü"})
    assert read(tmp_path / "metrics.jsonl") == [{"step": 3, "time": 12.346, "train/loss": 2.5, "samples/0": "ü"}]
    assert diary.calls == [
        ("start", {"optimizer.lr": 0.1}, tmp_path, []),
        ("log", 3, 12.346, {"train/loss": 2.5}),
        ("text", 3, 12.346, "samples/0", "ü"),
        ("close", False),
    ]


def test_a_resumed_run_gives_its_trackers_the_lines_up_to_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 0.0)
    with recording(tmp_path, MemoryTracker(), trainer()) as recorder:
        for step in (1, 2, 3):
            recorder.after_log(trainer(step), {"train/loss": float(step)})
        recorder.after_evaluation(trainer(3), {"eval/val/loss": 1.0})
    after = MemoryTracker()
    with recording(tmp_path, after, trainer(step=3, evaluation_done=False)) as recorder:
        recorder.after_evaluation(trainer(3), {"eval/val/loss": 1.5})
    (_, _, _, history), *calls = after.calls
    assert [(line["step"], line["train/loss"]) for line in history] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert calls == [("log", 3, 0.0, {"eval/val/loss": 1.5}), ("close", False)]
    assert read(tmp_path / "metrics.jsonl")[:3] == history


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_closes_the_trackers_as_failed_and_passes_on(tmp_path, error):
    diary = MemoryTracker()
    with pytest.raises(error), recording(tmp_path, diary, trainer()) as recorder:
        recorder.after_log(trainer(1), {"train/loss": 1.0})
        raise error
    assert diary.calls[-1] == ("close", True)
    assert len(read(tmp_path / "metrics.jsonl")) == 1
