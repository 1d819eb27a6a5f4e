"""The ranks of a start agree on a session, in a number of calls that grows with the ranks and no faster."""

import threading
import time
from collections import Counter
from datetime import timedelta

import pytest
import torch.distributed as dist

from gpt2dist.distributed import session
from gpt2dist.errors import RunError


class Store:
    """Entries that threads share, as the ranks share a store."""

    def __init__(self):
        self.entries = {}
        self.changed = threading.Condition()


class Client:
    """What one rank has of a store; it counts calls and bytes."""

    def __init__(self, store):
        self.store, self.calls, self.bytes = store, Counter(), 0

    def _count(self, call, *texts):
        self.calls[call] += 1
        self.bytes += sum(map(len, texts))

    def set(self, key, value):
        self._count("set", key, value)
        with self.store.changed:
            self.store.entries[key] = value.encode()
            self.store.changed.notify_all()

    def get(self, key):
        self.wait([key], timedelta(seconds=20))
        self.calls["wait"] -= 1
        self._count("get", self.store.entries[key])
        return self.store.entries[key]

    def wait(self, keys, timeout):
        self._count("wait", *keys)
        with self.store.changed:
            there = lambda: all(key in self.store.entries for key in keys)  # noqa: E731
            if not self.store.changed.wait_for(there, timeout.total_seconds()):
                raise dist.DistStoreError("wait timeout")

    def check(self, keys):
        self._count("check", *keys)
        return all(key in self.store.entries for key in keys)

    def delete_key(self, key):
        self._count("delete", key)
        return self.store.entries.pop(key, None) is not None


def start(store, size, late=None, seconds=20):
    """Lets all ranks agree, one thread each, and gives the sessions and the clients in rank order."""
    clients, sessions = [Client(store) for _ in range(size)], [None] * size

    def rank(number):
        if number in (late or {}):
            time.sleep(late[number])
        sessions[number] = session.agree(clients[number], number, size, timedelta(seconds=seconds))

    threads = [threading.Thread(target=rank, args=(number,), daemon=True) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return sessions, clients


def test_all_ranks_have_the_same_session_and_each_start_another():
    store = Store()
    found = [start(store, 4)[0] for _ in range(3)]
    assert all(len(set(sessions)) == 1 and None not in sessions for sessions in found)
    assert len({sessions[0] for sessions in found}) == 3


@pytest.fixture
def patient(monkeypatch):
    """No rank looks more often than it must, however busy this machine is."""
    monkeypatch.setattr(session, "FIRST_PAUSE_SECONDS", 0.5)
    monkeypatch.setattr(session, "REPLACED_SECONDS", 30)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_calls_and_bytes_of_the_store_are_linear_in_the_number_of_ranks(patient, size):
    sessions, clients = start(Store(), size)
    assert len(set(sessions)) == 1
    assert all(client.calls.total() <= 10 for client in clients[1:])
    assert clients[0].calls.total() <= 3 * (size - 1) + 5
    assert sum(client.calls.total() for client in clients) <= 10 * size
    assert sum(client.bytes for client in clients) <= 1000 * size


def test_a_late_rank_is_waited_for_with_few_calls():
    sessions, clients = start(Store(), 3, late={2: 3.0})
    assert len(set(sessions)) == 1
    assert max(client.calls.total() for client in clients) <= 40


@pytest.mark.parametrize("late", [0, 1])
def test_what_an_interrupted_start_has_left_leads_nobody_astray(late):
    store, ghost = Store(), "of an exited rank"
    store.entries = {  # rank 0 was killed when it had answered
        session.OPEN: b"old",
        "old/asked/1": ghost.encode(),
        f"answered/{ghost}": b"old",
        "old/confirmed/1": ghost.encode(),
    }
    sessions, _ = start(store, 2, late={late: 0.7})
    assert sessions[0] == sessions[1] not in (None, "old")


def test_a_rank_that_is_replaced_after_it_has_asked_is_answered_again(monkeypatch):
    store = Store()
    monkeypatch.setattr(session, "REPLACED_SECONDS", 0.1)

    class Haunted(Client):
        def set(self, key, value):
            if key == session.OPEN:  # a rank of the earlier start asks, and exits
                super().set(f"{value}/asked/1", "of an exited rank")
            super().set(key, value)

    sessions = [None, None]

    def rank(number, client):
        time.sleep(0.5 * number)
        sessions[number] = session.agree(client, number, 2, timedelta(seconds=20))

    threads = [threading.Thread(target=rank, args=each) for each in ((0, Haunted(store)), (1, Client(store)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sessions[0] == sessions[1] is not None


@pytest.mark.parametrize("rank", [0, 1])
def test_a_missing_rank_ends_the_wait_with_a_message(rank):
    with pytest.raises(
        RunError, match=rf"rank {rank} waited 0:00:00.300000 for the other 2; see the log of each"
    ):
        session.agree(Client(Store()), rank, 3, timedelta(seconds=0.3))
