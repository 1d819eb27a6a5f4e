import json
import socket
import threading

import pytest
import torch.distributed as dist

from gpt2dist.distributed import peer_monitor
from gpt2dist.distributed.peer_monitor import PeerMonitor, connect
from gpt2dist.errors import PeerLostError, RunError

PATIENCE = 60.0


class Ranks:
    """The monitors of several ranks, all in this process."""

    def __init__(self, size):
        store, found = dist.HashStore(), [[] for _ in range(size)]

        def start(rank):
            found[rank] += connect(store, rank, size, "127.0.0.1", PATIENCE)

        starts = [threading.Thread(target=start, args=(rank,)) for rank in range(size)]
        for thread in starts:
            thread.start()
        for thread in starts:
            thread.join(PATIENCE)
        self.ended = [threading.Event() for _ in range(size)]
        self.reports = [[] for _ in range(size)]
        self.monitors = [
            PeerMonitor(rank, neighbours, lambda code, rank=rank: self.ended[rank].set())
            for rank, neighbours in enumerate(found)
        ]
        for monitor, reports in zip(self.monitors, self.reports, strict=True):
            monitor.report = lambda error, reports=reports: reports.append(str(error))

    def kill(self, rank):
        """Close a rank's connections, as the kernel does for a process that is killed."""
        self.monitors[rank]._closed.set()
        for neighbour in list(self.monitors[rank]._neighbours):
            neighbour.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def ranks(monkeypatch):
    monkeypatch.setattr(peer_monitor, "GRACE_SECONDS", 0.05)
    made = []

    def of(size):
        made.append(Ranks(size))
        return made[-1]

    yield of
    for each in made:
        for monitor in each.monitors:
            monitor.goodbye()


@pytest.mark.parametrize(("size", "victim"), [(2, 0), (3, 2), (9, 0), (9, 1), (9, 8)])
def test_all_ranks_learn_which_one_is_gone(ranks, size, victim):
    found = ranks(size)
    assert max(len(monitor._neighbours) for monitor in found.monitors) <= 3
    found.kill(victim)
    for rank in set(range(size)) - {victim}:
        assert found.ended[rank].wait(PATIENCE)
        assert found.reports[rank] == [f"rank {victim} is gone: its connection closed"]
    assert not found.ended[victim].is_set()


def test_a_rank_that_ends_by_an_error_tells_it_and_one_that_lost_a_rank_passes_that_on(ranks):
    for error, loss in (
        (ValueError("too\nlong"), "rank 3 failed: ValueError: too"),
        (PeerLostError("rank 2 is gone"), "rank 2 is gone"),
        (ValueError("x" * 5000), f"rank 3 failed: ValueError: {'x' * 5000}"[:1000]),
    ):
        found = ranks(5)
        found.monitors[3].tell(error)
        for rank in (0, 1, 2, 4):
            assert found.ended[rank].wait(PATIENCE)
            assert found.reports[rank] == [loss]
        assert not found.ended[3].is_set()  # it ends by itself


def test_after_a_goodbye_a_rank_is_not_lost_and_others_still_can_be(ranks):
    found = ranks(4)
    found.monitors[2].goodbye()
    found.monitors[2].goodbye()
    found.kill(3)
    for rank in (0, 1):
        assert found.ended[rank].wait(PATIENCE)
        assert found.reports[rank] == ["rank 3 is gone: its connection closed"]
    assert not found.monitors[2].loss and not found.ended[2].is_set()


def test_a_main_thread_that_notices_the_loss_is_left_alone(ranks):
    found = ranks(2)
    found.kill(1)
    monitor = found.monitors[0]
    assert monitor.wait_for_loss() == "rank 1 is gone: its connection closed"
    assert not found.ended[0].wait(0.3)
    monitor.goodbye()
    assert not monitor._thread.is_alive() and not found.reports[0]


def test_a_main_thread_that_notices_it_and_is_stuck_afterwards_is_ended(ranks, monkeypatch):
    monkeypatch.setattr(peer_monitor, "CLOSING_SECONDS", 0.05)
    found = ranks(2)
    found.kill(1)
    found.monitors[0].notice()
    assert found.ended[0].wait(PATIENCE)
    assert found.reports[0] == ["rank 1 is gone: its connection closed"]


def test_a_report_that_hangs_does_not_keep_the_process(ranks, monkeypatch):
    monkeypatch.setattr(peer_monitor, "CLOSING_SECONDS", 0.05)
    found, never = ranks(2), threading.Event()
    found.monitors[0].report = lambda error: never.wait(PATIENCE)
    found.kill(1)
    assert found.ended[0].wait(PATIENCE)
    never.set()


def test_a_network_that_is_down_is_no_loss(ranks, monkeypatch):
    """Where keepalive packets or messages find no way: the rank at the other end may live."""
    found = ranks(2)

    def receive(self):
        raise TimeoutError("Connection timed out")

    monkeypatch.setattr(peer_monitor.Neighbour, "receive", receive)
    found.kill(1)
    found.monitors[0]._waker.send(b"!")
    assert not found.ended[0].wait(0.3)
    assert not found.monitors[0].loss


def test_strangers_and_silent_callers_are_turned_away(monkeypatch):
    monkeypatch.setattr(peer_monitor, "HELLO_SECONDS", 0.05)
    store, found = dist.HashStore(), []
    parent = threading.Thread(target=lambda: found.extend(connect(store, 0, 2, "127.0.0.1", PATIENCE)))
    parent.start()
    address, port, token = json.loads(store.get("monitor/0"))
    strangers = []
    for word in (b"GET / HTTP/1.1\r\n\r\n" + b" " * 30, b"", b"0" * 42, f"{token}0000000007".encode()):
        strangers.append(socket.create_connection((address, port)))
        strangers[-1].sendall(word)
    found += connect(store, 1, 2, "127.0.0.1", PATIENCE)
    parent.join(PATIENCE)
    assert sorted(neighbour.rank for neighbour in found) == [0, 1]
    for each in (*strangers, *(neighbour.connection for neighbour in found)):
        each.close()


def test_a_rank_that_does_not_come_and_one_that_cannot_be_reached_are_named():
    with pytest.raises(RunError, match="rank 1 and 2 did not connect in time"):
        connect(dist.HashStore(), 0, 3, "127.0.0.1", 0.05)
    store = dist.HashStore()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    store.set("monitor/0", json.dumps(["127.0.0.1", port, "0" * 32]))
    with pytest.raises(
        RunError, match=f"cannot connect to rank 0 at 127.0.0.1, port {port} .Connection refused.; let"
    ):
        connect(store, 1, 2, "127.0.0.1", 5)


def test_alone_there_is_no_monitor():
    peer_monitor.notice()
    peer_monitor.tell(ValueError())
    peer_monitor.goodbye()
    assert peer_monitor.wait_for_loss() == ""
    with peer_monitor.reporting(lambda error: None):
        pass
