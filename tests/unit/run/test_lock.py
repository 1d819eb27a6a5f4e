"""The lock of a run directory: one job holds it, lookers never stand in its way."""

import fcntl
import json
import os
import socket
import threading

import pytest
import torch

from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.run import lock
from gpt2dist.run.lock import is_held, only_job

ALONE = World(0, 0, 1, torch.device("cpu"))


def test_it_is_held_as_long_as_the_job_is_at_work(tmp_path):
    assert is_held(tmp_path) is None
    with only_job(tmp_path, ALONE):
        assert is_held(tmp_path) is True
        owner = json.loads((tmp_path / "lock").read_text())
        assert owner == owner | {"host": socket.gethostname(), "pid": os.getpid()}
    assert is_held(tmp_path) is False


def test_a_second_job_is_turned_away(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.1)
    with (
        only_job(tmp_path, ALONE),
        pytest.raises(UserError, match="another job is training here"),
        only_job(tmp_path, ALONE),
    ):
        pass


def test_a_job_waits_for_one_that_only_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 60)
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        timer = threading.Timer(0.2, lambda: fcntl.flock(looker, fcntl.LOCK_UN))
        timer.start()
        with only_job(tmp_path, ALONE):
            assert is_held(tmp_path) is True
        timer.join()


def test_two_that_look_do_not_see_each_other(tmp_path):
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        assert is_held(tmp_path) is False


def test_a_file_system_without_locks_still_tells_who_is_at_work(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with only_job(tmp_path, ALONE):
        assert is_held(tmp_path) is None
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
