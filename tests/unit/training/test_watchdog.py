"""Dead launchers and hangs, with real processes."""

import signal
import subprocess
import sys
import threading

import pytest

from tests.support.commands import read_line, start_python

ORPHAN = """
import subprocess, sys, time
child = '''
import os, signal, sys, time
from gpt2dist.training.watchdog import exit_with_parent
exit_with_parent()
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"told" + bytes([10])), sys.exit()))  # print may be at work
print("ready", flush=True)
time.sleep(60)
'''
subprocess.Popen([sys.executable, "-c", child])
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_an_orphan_is_told_when_its_launcher_dies():
    with start_python(ORPHAN) as launcher:
        assert read_line(launcher) == "ready"
        launcher.send_signal(signal.SIGKILL)
        assert read_line(launcher) == "told"  # from the child, through the same pipe


HANG = """
import ctypes, sys, time
from pathlib import Path
from gpt2dist.training.watchdog import Watchdog
def stuck_here(library):
    library.sleep(60)
with Watchdog(Path(sys.argv[1]), 3.0, lambda error: print(error, flush=True)) as dog:
    for _ in range(5):
        time.sleep(0.8)  # far from the limit, on a machine that has much else to do; all of them are beyond it
        dog.alive()
    stuck_here(ctypes.{library}(None))
"""


def hang(log, library):
    """What a process that hangs in a call of the C library says, and its log."""
    log.write_text("before\n")
    command = [sys.executable, "-c", HANG.format(library=library), str(log)]
    done = subprocess.run(command, timeout=50, stdout=subprocess.PIPE, text=True)  # it does not sleep out
    assert done.returncode == 1
    text = log.read_text()
    assert text.startswith("before\n") and "Timeout" in text and "in stuck_here" in text
    return done.stdout


def test_a_hang_is_told_and_ends_with_the_stacks_in_the_log(tmp_path):
    assert hang(tmp_path / "rank.log", "CDLL").startswith(
        "no progress for 3 seconds, in stuck_here (<string>:6): it hangs there, or waits for a rank"
    )


def test_a_hang_of_python_itself_ends_without_a_word(tmp_path):
    assert hang(tmp_path / "rank.log", "PyDLL") == ""  # keeps the interpreter's lock: no thread of Python runs


def test_a_run_that_ends_in_time_is_left_alone(tmp_path):
    from gpt2dist.training.watchdog import Watchdog

    words = []
    with Watchdog(tmp_path / "rank.log", 60.0, words.append) as dog:
        dog.alive()
    assert (words, (tmp_path / "rank.log").read_text()) == ([], "")
    assert not any(thread.name == "gpt2dist-watchdog" for thread in threading.enumerate())
