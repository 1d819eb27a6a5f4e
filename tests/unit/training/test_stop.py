"""Signals that ask a run to stop, with real processes."""

import signal
import time

import pytest

from tests.support.commands import read_line, start_python

STOP = """
import os, signal, sys, time
from gpt2dist.training import stop as module
module.ECHO_SECONDS = {echo}
with module.StopSignal() as stop:
    print("ready", flush=True)
    while not stop.name:
        time.sleep(0.01)
    print(stop.name, flush=True)
    {then}
print("left", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_remembered(number):
    with start_python(STOP.format(echo=2, then="")) as process:
        assert read_line(process) == "ready"
        process.send_signal(number)
        assert read_line(process) == number.name
        assert read_line(process) == "left"
    assert process.returncode == 0


def test_a_second_signal_ends_at_once_even_where_python_hangs():
    hang = "import ctypes\n    while True: ctypes.CDLL(None).sleep(60)"
    with start_python(STOP.format(echo=0.2, then=hang)) as process:
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert read_line(process) == "SIGTERM"
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


def test_the_second_signal_is_reported_before_the_end(capsys, monkeypatch):
    from gpt2dist.training import stop

    done = []
    monkeypatch.setattr(stop, "ECHO_SECONDS", -1)
    monkeypatch.setattr(stop.os, "_exit", lambda code: done.append(code))
    receiver = stop.StopSignal(on_second=done.append)
    receiver._notice(signal.SIGINT)
    assert (receiver.name, done) == ("SIGINT", [])
    receiver._notice(signal.SIGTERM)
    assert done == ["SIGTERM", 128 + signal.SIGTERM]


@pytest.mark.parametrize("launched", [False, True])
def test_ctrl_c_stays_ignored_in_a_background_job_of_a_shell_unless_a_launcher_forwards_it(launched):
    from gpt2dist.training.stop import StopSignal

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignal(launched):
            assert (signal.getsignal(signal.SIGINT) == signal.SIG_IGN) is not launched
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_echo_of_a_launcher_is_no_second_signal():
    with start_python(STOP.format(echo=30, then="time.sleep(0.5)")) as process:
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert read_line(process) == "SIGTERM"
        process.send_signal(signal.SIGTERM)
        assert read_line(process) == "left"
    assert process.returncode == 0


def test_signals_are_as_before_afterwards():
    from gpt2dist.training.stop import StopSignal

    before = signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
