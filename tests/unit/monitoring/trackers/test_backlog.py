from gpt2dist.monitoring.trackers import backlog
from gpt2dist.monitoring.trackers.backlog import Backlog


def line(step):
    return {"step": step, "time": 1.0}


def test_new_lines_wait_behind_those_that_are_missing_of_which_a_few_are_sent_each_time(monkeypatch):
    monkeypatch.setattr(backlog, "LINES_AT_ONCE", 3)
    sent, read = [], []
    missing = (read.append(step) or line(step) for step in range(1, 6))
    each = Backlog(missing, sent.append)
    assert sent == read == []
    each.add(line(6))
    assert sent == [line(step) for step in (1, 2, 3)] and read == [1, 2, 3]
    each.add(line(7))
    assert sent == [line(step) for step in range(1, 8)]
    each.add(line(8))
    assert sent[-1] == line(8) and each.finish()


def test_the_end_does_not_wait_for_a_long_history(monkeypatch):
    monkeypatch.setattr(backlog, "LINES_AT_ONCE", 1)
    monkeypatch.setattr(backlog, "LINES_AT_END", 4)
    sent = []
    each = Backlog(map(line, range(1, 100)), sent.append)
    each.add(line(100))
    assert not each.finish()
    assert sent == [line(step) for step in (1, 2, 3, 4, 5)]
