import pytest

from gpt2dist.monitoring.recorder import MetricsRecorder
from gpt2dist.run.metrics_file import read
from tests.support.recording_tracker import MemoryTracker


def recorder(run, diary, step=0, evaluation_done=True):
    return MetricsRecorder(run, step, evaluation_done, {"diary": lambda: diary}, {"optimizer.lr": 0.1})


def test_the_file_and_the_trackers_get_the_same(tmp_path):
    diary = MemoryTracker()
    with recorder(tmp_path, diary) as record:
        record.write(3, 12.34567, {"train/loss": 2.5, "samples/0": "ü"})
    assert read(tmp_path / "metrics.jsonl") == [{"step": 3, "time": 12.346, "train/loss": 2.5, "samples/0": "ü"}]
    assert diary.calls == [
        ("start", {"optimizer.lr": 0.1}, tmp_path, []),
        ("log", 3, 12.346, {"train/loss": 2.5}),
        ("text", 3, 12.346, "samples/0", "ü"),
        ("close", False),
    ]


def test_a_run_that_goes_on_hands_over_its_history_cut_back(tmp_path):
    with recorder(tmp_path, MemoryTracker()) as record:
        for step in (1, 2, 3):
            record.write(step, 0.0, {"train/loss": float(step)})
        record.write(3, 0.0, {"eval/val/loss": 1.0})
    after = MemoryTracker()
    with recorder(tmp_path, after, step=3, evaluation_done=False) as record:
        record.write(3, 0.0, {"eval/val/loss": 1.5})
    (_, _, _, history), *calls = after.calls
    assert [(line["step"], line["train/loss"]) for line in history] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert calls == [("log", 3, 0.0, {"eval/val/loss": 1.5}), ("close", False)]
    assert read(tmp_path / "metrics.jsonl")[:3] == history


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_closes_all_as_failed_and_goes_on_its_way(tmp_path, error):
    diary = MemoryTracker()
    with pytest.raises(error), recorder(tmp_path, diary) as record:
        record.write(1, 0.0, {"train/loss": 1.0})
        raise error
    assert diary.calls[-1] == ("close", True)
    assert len(read(tmp_path / "metrics.jsonl")) == 1
