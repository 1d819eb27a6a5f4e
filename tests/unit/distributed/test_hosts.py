"""What one rank of each host does for the others, with ranks that are threads."""

import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpt2dist.distributed import hosts
from gpt2dist.distributed.hosts import HostWork, first_fault, on_each_host, ranks_of_host
from gpt2dist.errors import PeerLostError, UserError
from tests.support.stores import CPU, ThreadWorld

HOSTS = ("a", "a", "b", "b", "c")
"""The host of each rank; the first rank on each has the local rank 0."""


@pytest.fixture
def on_ranks(monkeypatch):
    """Runs a function of a rank on a thread for each; returns what each returned or raised."""
    place = threading.local()
    monkeypatch.setattr(socket, "gethostname", lambda: place.host)

    def run(function, names=HOSTS):
        board, meet = {}, threading.Barrier(len(names))

        def rank(number):
            place.host = names[number]
            local = names[:number].count(names[number])
            try:
                return function(ThreadWorld(number, local, len(names), CPU, board, meet))
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(names)) as pool:
            return list(pool.map(rank, range(len(names))))

    return run


def texts(outcomes):
    """The messages of UserErrors, one per rank."""
    assert {type(each) for each in outcomes} == {UserError}
    return [str(each) for each in outcomes]


def test_one_rank_of_each_host_works_and_all_have_what_rank_0_found(on_ranks):
    worked = []
    found = on_ranks(lambda world: on_each_host(world, lambda: worked.append(world.rank) or socket.gethostname()))
    assert found == ["a"] * 5 and sorted(worked) == [0, 2, 4]


def test_a_fault_on_all_hosts_is_one_message(on_ranks):
    def refuse():
        raise UserError("data.train: no such directory")

    outcomes = on_ranks(lambda world: on_each_host(world, refuse))
    assert texts(outcomes) == ["data.train: no such directory"] * 5


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("c", "host c: no data"),
        ("bc", "hosts b, c: no data"),
        ("a", "host a: no data"),
        ("ac", "hosts a, c: no data"),
    ],
)
def test_a_fault_on_some_hosts_names_them_on_every_rank(on_ranks, lacking, message):
    def look():
        if socket.gethostname() in lacking:
            raise UserError("no data")
        return 1

    assert texts(on_ranks(lambda world: on_each_host(world, look))) == [message] * 5


def test_not_all_of_many_hosts_are_named(on_ranks):
    names = [f"node{number}" for number in range(9)]

    def look():
        if socket.gethostname() > "node0":
            raise UserError("no data")

    outcomes = on_ranks(lambda world: on_each_host(world, look), names)
    assert set(texts(outcomes)) == {"hosts node1, node2, node3, node4, node5 and 3 more: no data"}


def test_a_host_with_another_version_is_named(on_ranks):
    def version(found):
        return {"/data/web": found}

    outcomes = on_ranks(
        lambda world: on_each_host(world, lambda: "old" if socket.gethostname() == "b" else "new", version)
    )
    message = "host b: /data/web: differs from that on the host of rank 0; copy it again, or mount the same disk"
    assert texts(outcomes) == [message] * 5
    assert on_ranks(lambda world: on_each_host(world, lambda: "new", version)) == ["new"] * 5


@pytest.mark.parametrize("failing", [0, 2])
def test_another_exception_stays_with_its_rank_and_the_others_do_not_wait(on_ranks, failing):
    def work(world):
        if world.rank == failing:
            raise ZeroDivisionError("of mine")

    outcomes = on_ranks(lambda world: on_each_host(world, lambda: work(world)))
    own = outcomes.pop(failing)
    assert isinstance(own, ZeroDivisionError)
    assert {str(each) for each in outcomes} == {f"rank {failing} failed: ZeroDivisionError: of mine"}
    assert {type(each) for each in outcomes} == {PeerLostError}


@pytest.mark.parametrize(("local", "leads"), [("0", True), ("3", False)])
def test_work_before_the_join_goes_by_the_launchers_variables(monkeypatch, local, leads):
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("LOCAL_RANK", local)
    monkeypatch.setenv("WORLD_SIZE", "8")
    done = []
    HostWork.before_join(lambda: done.append(True))
    assert bool(done) == leads


def test_a_process_alone_is_refused_at_once(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def refuse():
        raise UserError("no data")

    with pytest.raises(UserError, match=r"^no data$"):
        HostWork.before_join(refuse)


def test_the_first_fault_reaches_every_rank_and_names_its_host_if_there_are_several(on_ranks):
    def find(world):
        return first_fault(world, "no file" if world.rank in (3, 4) else "")

    assert on_ranks(find) == ["hosts b, c: no file"] * 5
    assert on_ranks(find, ["a"] * 5) == ["no file"] * 5
    assert on_ranks(lambda world: first_fault(world, "")) == [""] * 5
    assert on_ranks(lambda world: first_fault(world, "no file")) == ["no file"] * 5


def test_the_ranks_of_a_host(on_ranks):
    assert on_ranks(ranks_of_host) == [[0, 1], [0, 1], [2, 3], [2, 3], [4]]


def test_it_does_not_import_torch():
    code = f"import sys, {hosts.__name__}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
