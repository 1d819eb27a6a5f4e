import logging
import sys

import pytest

from gpt2dist.errors import UserError
from gpt2dist.monitoring.trackers import TRACKERS, Trackers, send
from gpt2dist.run.metrics_file import NO_HISTORY
from tests.support.recording_tracker import MemoryTracker


def started(tmp_path, **diaries):
    trackers = Trackers({name: lambda diary=diary: diary for name, diary in diaries.items()})
    trackers.start({"optimizer.lr": 0.1}, tmp_path, NO_HISTORY)
    return trackers


def test_a_line_becomes_numbers_and_texts(tmp_path):
    diary = MemoryTracker()
    send(diary, {"step": 7, "time": 1.5, "train/loss": 2.5, "progress/tokens": 9, "samples/0": "a", "gone": None})
    assert diary.calls == [
        ("log", 7, 1.5, {"train/loss": 2.5, "progress/tokens": 9}),
        ("text", 7, 1.5, "samples/0", "a"),
    ]


def test_without_numbers_there_is_no_log(tmp_path):
    diary = MemoryTracker()
    send(diary, {"step": 7, "time": 1.5, "samples/0": "a", "samples/1": "b"})
    assert [call[0] for call in diary.calls] == ["text", "text"]


def test_all_are_told_all_in_order(tmp_path):
    first, second = MemoryTracker(), MemoryTracker()
    trackers = started(tmp_path, first=first, second=second)
    trackers.send({"step": 1, "time": 2.0, "a": 3.0})
    trackers.close(failed=False)
    assert first.calls == second.calls
    assert first.calls == [
        ("start", {"optimizer.lr": 0.1}, tmp_path, []),
        ("log", 1, 2.0, {"a": 3.0}),
        ("close", False),
    ]


@pytest.mark.parametrize("where", ["log", "text", "close"])
def test_one_that_fails_is_dropped_with_a_word_and_the_others_go_on(tmp_path, caplog, where):
    bad, good = MemoryTracker(fails_in=where), MemoryTracker()
    trackers = started(tmp_path, bad=bad, good=good)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            trackers.send({"step": step, "time": 0.0, "a": 1.0, "samples/0": "x"})
        trackers.close(failed=False)
    assert [call[0] for call in good.calls] == ["start", "log", "text", "log", "text", "close"]
    assert bad.calls[-1][0] == where and [call[0] for call in bad.calls].count(where) == 1
    words, traceback = caplog.records
    assert words.getMessage().startswith(
        "bad failed (ConnectionError: the server is gone) and is disabled until the next start"
    )
    assert words.exc_info is None and traceback.name == "trackers" and traceback.exc_info


def test_one_that_cannot_start_refuses_the_run_and_closes_the_others(tmp_path):
    good = MemoryTracker()
    with pytest.raises(UserError) as refusal:
        started(tmp_path, good=good, bad=MemoryTracker(fails_in="start"))
    assert str(refusal.value) == (
        "bad could not start (ConnectionError: the server is gone); fix it, or remove it from the section "
        "monitoring"
    )
    assert good.calls[-1] == ("close", True)


def test_one_that_refuses_the_run_with_a_message_of_its_own_is_named_with_its_key(tmp_path):
    def refuse():
        raise UserError("the store lacks the run; name another")

    good = MemoryTracker()
    with pytest.raises(UserError, match=r"^monitoring\.trackers: bad: the store lacks the run; name another$"):
        Trackers({"good": lambda: good, "bad": refuse}).start({}, tmp_path, NO_HISTORY)
    assert good.calls[-1] == ("close", True)


def test_a_class_that_cannot_be_made_is_one_that_cannot_start(tmp_path):
    with pytest.raises(UserError, match=r"odd could not start \(ZeroDivisionError: division by zero\)"):
        Trackers({"odd": lambda: 1 / 0}).start({}, tmp_path, NO_HISTORY)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, from which modules may be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_class_is_found_in_the_current_directory(folder):
    methods = "".join(f"    def {name}(self, *what): pass\n" for name in ("start", "log", "text", "close"))
    (folder / "my_tracker.py").write_text(f"class Mine:\n{methods}")
    assert TRACKERS.get("my_tracker:Mine").__name__ == "Mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "comet",
            "unknown tracker 'comet' (known: wandb, mlflow); write one of these, or package.module:attribute",
        ),
        (":Mine", "unknown tracker ':Mine' (known: wandb, mlflow); write one of these, or package.module:attri"),
        (
            "absent_module:Mine",
            "absent_module:Mine cannot be imported (ModuleNotFoundError: No module named 'absent_",
        ),
        (
            "half:Mine",
            "half:Mine cannot be imported (AttributeError: module 'half' has no attribute 'Mine'); install",
        ),
        (
            "broken:Mine",
            "broken:Mine cannot be imported (RuntimeError: no key); install it, put its folder on PYTHON",
        ),
        ("half:Half", "the tracker half:Half lacks text (needed: start, log, text, close)"),
    ],
)
def test_what_is_no_tracker_is_refused_with_the_way_out(folder, name, message):
    (folder / "broken.py").write_text("raise RuntimeError('no key')")
    (folder / "half.py").write_text("class Half:\n    start = log = close = print\n")
    with pytest.raises(ValueError) as refusal:
        TRACKERS.get(name)
    assert str(refusal.value).startswith(message)
