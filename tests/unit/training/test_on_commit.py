"""The calls of `checkpoint.on_commit` in one process, one event after the other."""

import threading
from types import SimpleNamespace

import pytest
import torch

from gpt2dist.distributed.world import World
from gpt2dist.run import commit_calls
from gpt2dist.training import on_commit
from gpt2dist.training.on_commit import CommitCalls
from gpt2dist.training.stop import StopCoordinator

WORLD = World(0, 0, 1, torch.device("cpu"))
NAME = "tests.support.uploads:upload"


class Upload:
    """A function whose calls last until they are let go; those of the steps in `broken` fail."""

    def __init__(self):
        self.begun, self.broken = [], set()
        self._let_go, self._changed = 0, threading.Condition()

    def __call__(self, checkpoint, step):
        with self._changed:
            self.begun.append(step)
            number = len(self.begun)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._let_go >= number, 60)
        if step in self.broken:
            raise OSError("full")

    def let_go(self, number):
        """Let the first `number` calls end."""
        with self._changed:
            self._let_go = number
            self._changed.notify_all()

    def wait(self, number):
        """Wait until so many calls have begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= number, 60)


@pytest.fixture
def upload():
    upload = Upload()
    yield upload
    upload.let_go(10**6)


@pytest.fixture
def start(tmp_path, upload, monkeypatch):
    """Starts the calls of a run."""
    monkeypatch.setattr(on_commit, "WAIT_SECONDS", 0.01)
    started = []

    def start(function=upload):
        monkeypatch.setattr(on_commit, "find_function", lambda name: function)
        started.append(CommitCalls(NAME, tmp_path))
        return started[-1]

    yield start
    for calls in started:
        calls.close()


@pytest.fixture
def commit(tmp_path):
    """Writes a checkpoint of a step."""

    def commit(step):
        path = tmp_path / f"checkpoints/step-{step:08d}"
        path.mkdir(parents=True)
        (path / "manifest.json").write_text(f"manifest of {step}")
        return path

    return commit


def wait_until_idle(calls):
    with calls._changed:
        assert calls._changed.wait_for(calls._is_idle, 60)


def finish(calls):
    """Waits for all calls, and returns those that failed."""

    def wait_until(is_done):
        while not is_done():
            pass
        return True

    return calls.finish(WORLD, wait_until)


def test_the_active_checkpoint_and_the_newest_that_waits_are_kept(start, commit, upload, caplog):
    calls = start()
    for step in (1, 2, 3, 4):
        calls.committed(commit(step))
    upload.wait(1)
    assert calls.held([1, 2, 3]) == {1, 3}
    assert [record.getMessage().split(" is ")[0] for record in caplog.records] == ["step-00000002"]
    upload.let_go(9)
    assert finish(calls) == "" and upload.begun == [1, 3, 4]
    assert calls.held([1, 3]) == set()


def test_a_failed_call_is_repeated_before_the_next_and_at_the_end_at_most_three_times(start, commit, upload):
    calls = start()
    upload.broken = {1}
    upload.let_go(99)
    for step in (1, 2, 3, 4):
        calls.committed(commit(step))
        wait_until_idle(calls)
        assert calls.held([1]) == ({1} if step < 3 else set())  # no further call: it may be deleted
    assert upload.begun == [1, 1, 2, 1, 3, 4] and calls.failures == 3
    assert finish(calls) == ""


def test_what_failed_to_the_end_is_named(start, commit, upload):
    calls = start()
    upload.broken = {2}
    upload.let_go(99)
    for step in (1, 2):
        calls.committed(commit(step))
    assert finish(calls) == f"{NAME} failed with step-00000002 (OSError: full)"
    assert upload.begun[:2] == [1, 2] and set(upload.begun[2:]) <= {2}


def test_the_next_start_repeats_what_was_cut_off_or_failed_and_only_that(start, commit, upload, tmp_path):
    first = start()
    upload.broken = {2}
    upload.let_go(2)
    for step in (1, 2):
        first.committed(commit(step))
    wait_until_idle(first)
    first.committed(commit(3))
    upload.wait(3)  # the second call of step 2; the process dies here
    for step in (4, 5, 6):  # 4 and 5 were never handed over, and 6 is newer than the checkpoint resumed from
        commit(step)
    again = Upload()
    again.let_go(99)
    second = start(again)
    second.resume(5)
    assert finish(second) == "" and again.begun == [2, 3, 5]
    second.resume(5)
    assert finish(second) == "" and again.begun == [2, 3, 5]
    (tmp_path / "checkpoints/step-00000005/manifest.json").write_text("another checkpoint of the same step")
    second.resume(5)
    assert finish(second) == "" and again.begun == [2, 3, 5, 5]


def test_the_wait_says_what_it_waits_for_feeds_the_watchdog_and_ends_at_a_signal(start, commit, upload, caplog):
    caplog.set_level("INFO")
    calls, fed = start(), []
    signal = SimpleNamespace(name="")

    def alive():
        fed.append(1)
        signal.name = "SIGINT" if len(fed) == 5 else signal.name

    coordinator = StopCoordinator(WORLD, signal, SimpleNamespace(alive=alive), None)
    for step in (1, 2):
        calls.committed(commit(step))
    upload.wait(1)

    def wait(is_done):
        return coordinator.wait_until(is_done, interruptible=True)

    said = f"{NAME} failed with step-00000001 (not finished), step-00000002 (not finished)"
    assert calls.finish(WORLD, wait) == said
    assert len(fed) == 5
    lines = [text for record in caplog.records if (text := record.getMessage()).startswith("waiting")]
    assert len(lines) == 1 and lines[0].startswith(f"waiting for {NAME} with step-00000001 and 1 more, for 0 s")
    upload.let_go(9)
    assert coordinator.wait_until(lambda: True, interruptible=False)  # a signal does not end this one


def test_a_damaged_record_counts_for_what_is_left_of_it(tmp_path):
    commit_calls.append(tmp_path, 1, "a", NAME, "done")
    path = tmp_path / "on_commit.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'[]\n\xff\n{"step": "1"}\n' + whole[:30])
    commit_calls.append(tmp_path, 2, "b", NAME, "failed", "OSError: full\nat line 2")
    assert commit_calls.states(tmp_path, NAME) == {(1, "a"): "done", (2, "b"): "failed"}
    assert commit_calls.states(tmp_path, "other:function") == {}
    assert commit_calls.last_failure(tmp_path, NAME) == f"{NAME} failed at step 2: OSError: full"
    commit_calls.append(tmp_path, 2, "b", NAME, "done")
    assert commit_calls.last_failure(tmp_path, NAME) == ""
    path.unlink()
    path.mkdir()
    assert commit_calls.states(tmp_path, NAME) == {}
