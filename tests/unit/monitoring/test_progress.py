import os
import pty
import select
import sys
import termios

from gpt2dist.monitoring.progress import Progress, info, quietly, warn


def test_without_a_terminal_there_are_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr("gpt2dist.monitoring.progress.PLAIN_LINE_SECONDS", 0.0)
    with Progress("train", 3, "step") as bar:
        bar.advance(loss="2.5")
        bar.info("saved")
        bar.advance(2)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split("[")[0] for line in lines] == ["train:  33% 1/3 ", "saved", "train: 100% 3/3 "]
    assert "loss=2.5" in lines[0] and "step/s" in lines[2]
    assert "\r" not in err and "█" not in err


def test_the_end_is_always_shown_and_lines_are_rare(capsys):
    with Progress("work", 1000, "B", scale=True) as bar:
        for _ in range(1000):
            bar.advance()
    assert [line.split("[")[0] for line in capsys.readouterr().err.splitlines()] == ["work: 100% 1.00k/1.00k "]


def test_a_resumed_job_starts_where_it_stood(capsys):
    with Progress("train", 10, "step", initial=6) as bar:
        bar.advance(4)
    assert "100% 10/10" in capsys.readouterr().err


def test_other_ranks_show_nothing(capsys):
    with Progress("train", 3, "step", enabled=False) as bar:
        bar.advance(3)
        bar.info("hello")
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 100))
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress("train", 4, "step") as bar:
            bar.advance(4, loss="1.0")
            bar.info("saved it")
        terminal.flush()
        shown = ""
        while select.select([reader], [], [], 0.5)[0]:  # a terminal hands out what it has piece by piece
            shown += os.read(reader, 65536).decode()
    os.close(reader)
    assert "train: 100%|" in shown and "4/4" in shown and "saved it" in shown


def test_a_part_of_other_work_leaves_nothing_behind(capsys):
    with Progress("evaluate", 3, "token", leave=False) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""


def test_quietly_only_what_is_wrong_is_shown(capsys):
    with quietly(), Progress("train", 3, "step") as bar:
        bar.advance(1)
        bar.info("saved")
        info("waiting")
        bar.warn("step 2 was skipped")
        bar.advance(2)
        warn("slow")
    assert capsys.readouterr().err == "WARNING: step 2 was skipped\nWARNING: slow\n"
    with Progress("train", 3, "step") as bar:
        bar.advance(3)
    info("waiting")
    assert capsys.readouterr().err.splitlines()[1] == "waiting", "and then all again"


def test_quietly_a_terminal_has_no_bar(monkeypatch):
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with quietly(), Progress("train", 4, "step") as bar:
            bar.advance(4, loss="1.0")
            bar.warn("so it is")
        terminal.flush()
        assert os.read(reader, 65536) == b"WARNING: so it is\r\n"
    os.close(reader)
