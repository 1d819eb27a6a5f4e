"""Processes of a pool: how they start, and what is said when one is killed. test_faults.py kills real ones."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from gpt2dist.errors import RunError
from gpt2dist.preprocessing import PreprocessingJob, executors


def test_ctrl_c_waits_until_the_processes_are_started():
    seen = []
    with pytest.raises(KeyboardInterrupt):
        with executors._without_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("went on")
            code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
            child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            seen.append(child.stdout.strip())
        seen.append("never")
    assert seen == ["went on", "True"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_stays_ignored_where_it_was():
    """As in a shell's background jobs."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with executors._without_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("error", [BrokenProcessPool(), EOFError(), ConnectionRefusedError()])
def test_a_process_that_is_killed_while_the_pool_starts(tmp_path, monkeypatch, error):
    """A worker; or the fork server, before or after it has answered."""

    def submit(self, *arguments):
        raise error

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    job = PreprocessingJob(("a.txt",), "tok", tmp_path / "out", workers=2)
    message = (
        "a worker process was killed, most likely because memory ran out. Finished work is kept in "
        f"{tmp_path}/out.partial: run the same command again to resume, with fewer --workers or a smaller "
        "--memory-per-worker if memory is short"
    )
    with pytest.raises(RunError) as raised, executors.open_executor(job, 2):
        pass
    assert str(raised.value) == message


def test_other_errors_are_not_taken_for_a_killed_worker(tmp_path):
    job = PreprocessingJob(("a.txt",), "tok", Path(tmp_path) / "out")
    with pytest.raises(EOFError), executors.open_executor(job, 2):
        raise EOFError


def test_a_part_of_the_calls_is_submitted_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "MOST_PENDING", 5)
    job, submitted, most = PreprocessingJob(("a.txt",), "tok", tmp_path / "out"), [], 0
    calls = ((submitted.append(number) or number,) for number in range(100))
    with ThreadPoolExecutor(2) as executor:
        for done, result in enumerate(executors.run_all(executor, job, abs, calls)):
            most = max(most, len(submitted) - done)
            assert 0 <= result < 100
    assert done == 99 and most <= 10  # five in hand, five that have just ended
