import resource
import subprocess
import sys

import pytest

from gpt2dist.distributed import open_files

LIMIT = resource.RLIMIT_NOFILE


def limit_after(soft, hard):
    """The soft limit of a process that began with these and has raised its own."""
    code = (
        "import resource as r; from gpt2dist.distributed.open_files import raise_limit;"
        f"r.setrlimit(r.RLIMIT_NOFILE, ({soft}, {hard})); raise_limit(); print(r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.parametrize(("soft", "hard"), [(100, 900), (900, 900)])
def test_the_soft_limit_is_raised_to_the_hard_one(soft, hard):
    assert limit_after(soft, hard) == 900


@pytest.mark.parametrize(("soft", "hard"), [(1024, resource.RLIM_INFINITY), (1024, 2**30)])
def test_a_limit_without_bound_is_not_taken_whole(monkeypatch, soft, hard):
    set_to = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
    open_files.raise_limit()
    assert set_to == [(open_files.ENOUGH, hard)]


def test_a_system_that_refuses_keeps_its_limit(monkeypatch):
    def refuse(*_):
        raise ValueError

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    open_files.raise_limit()
