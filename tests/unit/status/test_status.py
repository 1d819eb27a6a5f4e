"""The states of runs that were, and of directories as no test could wait for them."""

import contextlib
import fcntl
import json
import math
import os
import signal
import subprocess
import sys

import pytest

from gpt2dist.status.evaluations import Evaluation
from gpt2dist.status.run_files import find_runs
from gpt2dist.status.status import duration, read_status
from tests.support.ranks import RankFailedError, run_ranks
from tests.support.runs import metrics, train, train_here, write_run

FAST = ["schedule.total_steps=6", "checkpoint.every_steps=4"]


def train_with(config, overrides, deed, number):
    """Does something on one rank when its third step begins."""
    from gpt2dist.training.engine import Engine

    step, count = Engine.train_step, iter(range(100))

    def train_step(self, *args):
        if next(count) == 2 and os.environ["RANK"] == str(number):
            deed()
        return step(self, *args)

    Engine.train_step = train_step
    train_here(config, overrides)


def fail():
    raise ValueError("the seventh seal\nis broken")


def test_a_finished_run(tiny_dataset, tmp_path):
    run = train(write_run(tmp_path, tiny_dataset, validation=True), *FAST)
    status = read_status(run)
    assert (status.run, status.state, status.reason) == (str(run), "finished", "")
    assert (status.step, status.total_steps, status.checkpoint.step, status.skipped_steps) == (6, 6, 6, 0)
    assert status.loss == metrics(run, "train/loss")[-1]
    assert status.perplexity == pytest.approx(math.exp(status.loss))
    assert status.tokens_per_second == metrics(run, "throughput/tokens_per_second")[-1]
    assert (status.mfu, status.seconds_left) == (None, None)
    tags = ("loss", "perplexity", "bits_per_byte")
    (validated,) = status.evaluations
    assert (validated.name, validated.step) == ("val", 6)
    assert {tag: validated.values[tag] for tag in tags} == {
        tag: metrics(run, f"eval/val/{tag}")[-1] for tag in tags
    }
    assert not (run / "failed.json").exists()


def test_a_run_that_leaves_early_and_then_goes_on(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    run = train(config, *FAST, "run.stop_after_steps=4")
    status = read_status(run)
    assert (status.state, status.reason) == ("stopped", "by run.stop_after_steps=4, with everything saved")
    assert (status.step, status.total_steps) == (4, 6)
    train(config, *FAST)
    assert read_status(run).state == "finished"


def test_a_job_in_the_queue(tmp_path, make_run):
    run = make_run()
    for name in ("environment.json", "config.yaml"):  # which a job writes that begins
        (run.directory / name).unlink()
    record = run.submit(200)
    assert find_runs(tmp_path) == [run.directory]
    status = read_status(run.directory)
    assert status.state == "submitted"
    assert status.reason == f"3:20 min ago, slurm 4711; its output will be in {record}"
    assert (status.step, status.loss, status.checkpoint, status.silent) == (None, None, None, None)


def test_a_job_that_has_begun_waits_no_longer_and_one_after_a_failure_does(make_run):
    run = make_run()
    run.write("failed.json", {"rank": 0, "kind": "ValueError", "reason": "no"})
    run.lock_by()  # now
    run.submit(60)
    assert read_status(run.directory).state == "failed", "that was this job"
    run.submit(-1, number=2)
    assert read_status(run.directory).state == "submitted"


@pytest.mark.parametrize("facts", [{"work": "evaluate"}, {"jobs": None}, {"submitted": "now"}, {"asked": 3}])
def test_what_is_no_training_that_was_submitted(tmp_path, make_run, facts):
    run = make_run()
    run.lock_by()
    run.submit(-1, **facts)
    assert read_status(run.directory).state == "failed"
    for name in ("environment.json", "lock"):
        (run.directory / name).unlink()
    assert find_runs(tmp_path) == []


def test_a_run_that_is_stopped_by_a_signal(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    run_ranks(train_with, 1, config, FAST, lambda: os.kill(os.getpid(), signal.SIGTERM), 0)
    status = read_status(tmp_path / "run")
    assert (status.state, status.reason) == ("stopped", "by SIGTERM, with everything saved")
    assert status.step == status.checkpoint.step < 6


def test_the_rank_that_failed_first_is_told_with_its_reason_until_the_run_goes_on(tiny_dataset, tmp_path):
    config, run = write_run(tmp_path, tiny_dataset), tmp_path / "run"
    with pytest.raises(RankFailedError, match="the seventh seal"):
        run_ranks(train_with, 2, config, FAST, fail, 1)
    word = json.loads((run / "failed.json").read_text())
    assert word == word | {"rank": 1, "kind": "ValueError", "reason": "the seventh seal\nis broken"}
    status = read_status(run)
    assert (status.state, status.reason) == ("failed", "rank 1: ValueError: the seventh seal")
    train(config, *FAST, world_size=2)
    assert read_status(run).state == "finished"
    assert not (run / "failed.json").exists()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_where_a_rank_was_killed_another_tells_that_it_was_lost(tiny_dataset, tmp_path):
    with pytest.raises(RankFailedError, match=r"died without a word|closed by peer|reset by peer"):
        run_ranks(train_with, 2, write_run(tmp_path, tiny_dataset), FAST, die, 1)
    status = read_status(tmp_path / "run")
    assert (status.state, status.step) == ("failed", 2)
    assert status.reason.startswith("rank 0: ") and "(another rank failed first: killed" in status.reason


def test_a_killed_run_left_no_word(tiny_dataset, tmp_path):
    with pytest.raises(RankFailedError, match="died without a word"):
        run_ranks(train_with, 1, write_run(tmp_path, tiny_dataset), FAST, die, 0)
    status = read_status(tmp_path / "run")
    assert status.state == "failed"
    assert status.reason.startswith("ended without a message: killed")
    assert status.step == 2


def test_a_run_at_work(tiny_dataset, tmp_path):
    seen = tmp_path / "seen.json"

    def look():  # its own lock is of another open file, so that it stands in the way of this look too
        status = read_status(tmp_path / "run")
        seen.write_text(json.dumps([status.state, status.reason, status.step, status.seconds_left]))

    run_ranks(train_with, 1, write_run(tmp_path, tiny_dataset), FAST, look, 0)
    state, reason, step, left = json.loads(seen.read_text())
    assert (state, reason, step) == ("running", "", 2)
    assert left >= 0


@contextlib.contextmanager
def held(path):
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_run_of_this_host_is_never_stale(make_run):
    run = make_run()
    run.train(10, ended_ago=5000)
    lock = run.lock_by()
    os.utime(lock, (0, 0))
    with held(lock):
        status = read_status(run.directory)
    assert (status.state, status.reason) == ("running", "no sign of life for 1:23 h")


@pytest.mark.parametrize("lock_reaches", [True, False])
@pytest.mark.parametrize(
    ("seconds", "ago", "state"),
    # Five times the longest silence, and a minute at least.
    [(1, 30, "running"), (1, 70, "stale"), (30, 110, "running"), (30, 160, "stale")],
)
def test_a_run_of_another_host_is_judged_by_its_pace(make_run, seconds, ago, state, lock_reaches):
    run = make_run()
    run.train(10, seconds=seconds, ended_ago=ago)
    lock = run.lock_by("node-17")
    os.utime(lock, (0, 0))
    with held(lock) if lock_reaches else contextlib.nullcontext():
        status = read_status(run.directory)
    assert status.state == state
    assert ("look at node-17" in status.reason) == (state == "stale")
    assert status.silent == pytest.approx(ago, abs=20)


def test_a_run_that_has_just_begun_elsewhere_may_take_its_time(make_run):
    run = make_run()
    run.train(10, ended_ago=50_000)  # before it was started again
    lock = run.lock_by("node-17")
    now = lock.stat().st_mtime
    os.utime(lock, (now - 500, now - 500))
    assert read_status(run.directory).state == "running"
    os.utime(lock, (now - 700, now - 700))
    assert read_status(run.directory).state == "stale"


def test_an_end_that_was_told_is_believed_of_another_host_too(make_run):
    run = make_run()
    run.lock_by("node-17")
    run.train(10)
    run.write("stopped.json", {"reason": "SIGUSR1", "step": 10, "total_steps": 100})
    assert read_status(run.directory).state == "stopped"
    run.write("failed.json", {"rank": 3, "kind": "RunError", "reason": "the next start failed"})
    assert read_status(run.directory).reason == "rank 3: RunError: the next start failed"


def test_a_stop_in_the_last_evaluation_is_no_finish(make_run):
    run = make_run(total_steps=10)
    run.train(10)
    run.save(10)
    word = run.write("stopped.json", {"reason": "SIGTERM", "step": 10, "total_steps": 10})
    assert read_status(run.directory).state == "stopped"
    word.unlink()
    assert read_status(run.directory).state == "finished"
    run.write("failed.json", {"rank": 0, "kind": "UserError", "reason": "a start with other data"})
    assert read_status(run.directory).state == "finished"


@pytest.mark.parametrize(
    ("pid", "state"),
    [(os.getpid(), "running"), (2**22 + 1, "failed"), ("x", "failed")],
    ids=["this process", "none", "no number"],
)
def test_without_locks_a_process_of_this_host_is_looked_for(make_run, monkeypatch, pid, state):
    run = make_run()
    run.lock_by(pid=pid)
    run.train(10)

    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert read_status(run.directory).state == state


def test_a_copy_without_the_lock(make_run):
    run = make_run()
    run.train(10, ended_ago=30)
    assert read_status(run.directory).state == "running"
    run.train(10, ended_ago=3000)
    assert read_status(run.directory).state == "failed"


def test_the_watchdog_is_told_by_the_stacks_that_end_a_log(make_run):
    run = make_run()
    run.lock_by()
    log = run.directory / "logs/rank-00001.log"
    log.write_text("2026-01-01 10:00:00,1 INFO x: y\nTimeout (0:10:00)!\nThread 0x1:\n  File a.py, line 2\n")
    reason = f"hung for run.timeout_seconds; the stacks are in {log}"
    assert read_status(run.directory).reason == reason
    log.write_text("Timeout (0:10:00)!\nThread 0x1:\n")
    assert read_status(run.directory).reason == reason
    log.write_text(log.read_text() + "2026-01-02 10:00:00,1 INFO x: started again\n")
    assert "ended without a message" in read_status(run.directory).reason


def test_the_time_left_is_at_the_pace_since_the_start_to_where_the_run_ends(make_run):
    run = make_run(total_steps=1000, stop_after_steps=60)
    lock = run.lock_by("node-17")
    os.utime(lock, (0, 0))
    run.train(10, seconds=4, ended_ago=20)
    status = read_status(run.directory)
    assert status.seconds_left == pytest.approx(50 * 4 - 20, abs=15)
    times = metrics(run.directory, "time")
    os.utime(lock, (times[-1] - 1, times[-1] - 1))  # a single line since: no pace but its own
    assert read_status(run.directory).seconds_left is None
    run.train(10, seconds=4, ended_ago=20, **{"time/step": 2.0})
    assert read_status(run.directory).seconds_left == pytest.approx(50 * 2 - 20, abs=15)


def test_what_is_torn_or_no_run_file_at_all_is_as_if_it_were_not_there(make_run):
    run = make_run()
    names = ("environment.json", "config.yaml", "failed.json", "stopped.json", "lock", "checkpoints/latest")
    results = ("eval/step-00000003.json", "eval/wiki/step-00000004.json", "logs/rank-00000.log")
    whole = read_status(run.directory)
    for content in (b"", b'{"a": ', b"[1, 2]", b"\xff\xfe", b"null", b"{run: [", b"x: \x00"):
        for name in (*names, *results, "metrics.jsonl"):
            (run.directory / name).parent.mkdir(parents=True, exist_ok=True)
            (run.directory / name).write_bytes(content)
        status = read_status(run.directory)
        assert (status.step, status.evaluations, status.checkpoint) == (None, [], None)
    assert whole.total_steps == 100
    assert status.total_steps is None


def test_the_last_line_may_be_half_written(make_run):
    run = make_run()
    run.train(7)
    with (run.directory / "metrics.jsonl").open("ab") as file:
        file.write('{"step": 8, "train/loss": 1, "samples/0": "ä'.encode()[:-1])
    assert (read_status(run.directory).step, read_status(run.directory).loss) == (7, 4.93)


def test_a_directory_that_goes_away(tmp_path):
    assert read_status(tmp_path / "gone").step is None


def test_no_number_is_made_of_what_was_not_finite(make_run):
    run = make_run()
    run.train(3, **{"train/perplexity": None, "train/skipped_steps": 2})
    run.write("eval/step-00000003.json", {"val": {"loss": math.nan, "perplexity": math.inf}})
    status = read_status(run.directory)
    assert (status.perplexity, status.skipped_steps) == (None, 2)
    nothing = dict.fromkeys(("loss", "perplexity", "bits_per_byte"))
    assert status.evaluations == [Evaluation("val", 3, nothing)]


def test_a_million_lines_are_not_read(make_run):
    run = make_run()
    run.train(3)
    path = run.directory / "metrics.jsonl"
    content = path.read_bytes()
    with path.open("wb") as file:  # sparse
        file.truncate(2**33)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + content)
    assert read_status(run.directory).step == 3


def test_it_needs_no_torch(make_run):
    run = make_run()
    run.train(3)
    code = (
        "import sys; from pathlib import Path; from gpt2dist.status.status import read_status; "
        f"assert read_status(Path({str(run.directory)!r})).step == 3; "
        "print({'torch', 'numpy', 'pydantic', 'transformers', 'tqdm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (200, "3:20 min"), (3600, "1:00 h")),
        *((18240, "5:04 h"), (47 * 3600, "47:00 h"), (51 * 3600 + 60, "2 d 3 h")),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
