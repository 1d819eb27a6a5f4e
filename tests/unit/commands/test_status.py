"""`gpt2dist status` as a user calls it, on directories that training left and on such as it might."""

import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from gpt2dist.commands import status as command


@pytest.fixture
def runs(tmp_path):
    for name, steps in (("runs/a", 3), ("runs/sweep/b", 4)):
        directory = tmp_path / name
        directory.mkdir(parents=True)
        (directory / "environment.json").write_text('{"total_steps": 10}\n')
        line = {"step": steps, "time": time.time(), "train/loss": 2.5, "train/perplexity": 12.18}
        (directory / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        (directory / "stopped.json").write_text('{"reason": "SIGUSR1"}\n')
    (tmp_path / "runs/notes").mkdir()
    return tmp_path / "runs"


def test_a_folder_of_runs(gpt2dist, runs):
    code, out, err = gpt2dist("status", runs)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["run", "state", "step"]
    assert lines[1].split()[:4] == ["a", "stopped", "3/10", "30%"]
    assert lines[2].split()[:4] == ["sweep/b", "stopped", "4/10", "40%"]
    assert lines[3:] == [
        "",
        "a stopped: by SIGUSR1, with everything saved",
        "sweep/b stopped: by SIGUSR1, with everything saved",
    ]


def test_one_run(gpt2dist, runs):
    code, out, err = gpt2dist("status", runs / "a")
    assert (code, err) == (0, "")
    assert "         state  stopped: by SIGUSR1, with everything saved\n" in out
    assert "          loss  2.5000\n" in out


def test_json_has_an_object_per_run(gpt2dist, runs):
    code, out, err = gpt2dist("status", runs, "--json")
    assert (code, err) == (0, "")
    first, second = map(json.loads, out.splitlines())
    assert first == first | {
        "run": str(runs / "a"),
        "state": "stopped",
        "step": 3,
        "total_steps": 10,
        "loss": 2.5,
    }
    assert second == second | {"run": str(runs / "sweep/b"), "step": 4, "checkpoint": None, "evaluations": []}


def test_the_newest_start_is_shown_and_all_are_in_the_json(gpt2dist, runs):
    for number in (1, 2, 3):
        facts = {
            "time": 1.8e9 + number,
            "step": number,
            "world_size": 2,
            "changed": {"optimizer.lr": [0.1, number]},
        }
        path = runs / f"a/starts/{number:03d}/environment.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(facts))
    _, out, _ = gpt2dist("status", runs / "a")
    assert "        starts  3, the last 2027-01-15 " in out and ", at step 3, 2 ranks\n" in out
    assert "       changed  optimizer.lr 0.1 → 3\n" in out and out.count("changed") == 1
    _, out, _ = gpt2dist("status", runs, "--json")
    first, second = map(json.loads, out.splitlines())
    assert (second["start_count"], second["starts"]) == (0, [])
    assert first["start_count"] == 3 and [each["number"] for each in first["starts"]] == [1, 2, 3]
    expected = {"step": 2, "world_size": 2, "changes": [{"key": "optimizer.lr", "before": 0.1, "now": 2}]}
    assert first["starts"][1].items() >= expected.items()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone", "no such directory; name a run directory or a folder of runs"),
        ("file", "not a directory; name a run directory or a folder of runs"),
        ("empty", "no run here or up to 3 folders down; `gpt2dist train` writes one to run.output_dir"),
    ],
)
def test_a_wrong_directory(gpt2dist, tmp_path, name, words):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for more in ([], ["--watch"], ["--json"]):
        assert gpt2dist("status", tmp_path / name, *more) == (
            2,
            "",
            f"gpt2dist status: {tmp_path / name}: {words}\n",
        )


def test_a_folder_that_is_not_ours(gpt2dist, tmp_path, monkeypatch):
    def refused(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(command, "find_runs", refused)
    message = f"gpt2dist status: {tmp_path}: cannot be listed (Permission denied); name another folder\n"
    assert gpt2dist("status", tmp_path) == (2, "", message)


def looks(monkeypatch, *deeds):
    """Between one look and the next a deed is done; then Ctrl-C is pressed."""
    rest = iter(deeds)

    def sleep(_):
        deed = next(rest, None)
        if not deed:
            raise KeyboardInterrupt
        deed()

    monkeypatch.setattr(command.time, "sleep", sleep)


def test_a_watch_prints_plain_lines_where_there_is_no_terminal(gpt2dist, runs, monkeypatch):
    looks(monkeypatch, (runs / "a/stopped.json").unlink)
    code, out, err = gpt2dist("status", runs, "--watch")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 4 and "\x1b" not in out
    stopped = "a: stopped (by SIGUSR1, with everything saved), step 3/10 30%, loss 2.5000, perplexity 12.18"
    assert lines[0] == stopped
    assert lines[2] == "a: running, step 3/10 30%, loss 2.5000, perplexity 12.18"


def test_a_watch_in_json_prints_objects_again_and_again(gpt2dist, runs, monkeypatch):
    looks(monkeypatch, lambda: None)
    code, out, err = gpt2dist("status", runs, "--watch", "--json")
    assert (code, err) == (0, "")
    assert [json.loads(line)["step"] for line in out.splitlines()] == [3, 4, 3, 4]


def test_a_watch_outlives_the_runs(gpt2dist, runs, monkeypatch):
    looks(monkeypatch, lambda: runs.rename(runs.with_name("elsewhere")), lambda: None)
    assert gpt2dist("status", runs, "--watch")[0] == 0


def test_on_a_terminal_a_watch_redraws_in_place_until_ctrl_c(runs):
    (runs / "sweep/b/stopped.json").unlink()
    shutil.copytree(runs / "a", runs / "c")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 4, 40, 0, 0))  # lines, columns
    command = [sys.executable, "-m", "gpt2dist", "status", str(runs), "--watch"]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        shown = b""
        while shown.count(b"\x1b[H\x1b[J") < 2:
            shown += os.read(ours, 2**16)
        process.send_signal(signal.SIGINT)
        assert (process.wait(30), process.stderr.read()) == (0, b"")
    os.close(ours)
    screen = shown.decode().split("\x1b[H\x1b[J")[1].splitlines()
    assert [line.split() for line in screen] == [  # the last line is left to the cursor
        ["run", "state", "step", "loss", "left"],
        ["sweep/b", "running", "4/10", "40%", "2.5000", "–"],
        ["…", "2", "more"],
    ]


@pytest.mark.parametrize("words", [["status"], ["status", "--watch"], ["status", "--json"], ["status", "--help"]])
def test_a_reader_that_goes_is_no_failure(runs, words):
    """As `gpt2dist status runs | head -1`; Python itself would exit with code 120, or with a traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "gpt2dist", *words, str(runs)], stdout=writing, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
