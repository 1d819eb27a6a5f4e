"""The rounds of exchanges, the disk of a host, and a partner that does not answer."""

import shutil
import threading

import pytest
import torch

from gpt2dist.distributed import fabric
from gpt2dist.distributed.fabric import ACROSS, BETWEEN, WITHIN, Disk, middle_round, ring_rounds, rounds, use_disk
from gpt2dist.distributed.world import World
from gpt2dist.errors import RankRunError


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 1000, 1001])
def test_each_member_meets_both_neighbours_in_at_most_three_rounds(number):
    found = ring_rounds(number)
    assert len(found) <= 3
    for pairs in found:
        members = [member for pair in pairs for member in pair]
        assert len(members) == len(set(members)), "a member has one partner in a round"
    pairs = [frozenset(pair) for round in found for pair in round]
    expected = {frozenset((member, (member + 1) % number)) for member in range(number)} if number > 1 else set()
    assert len(pairs) == len(expected) and set(pairs) == expected


@pytest.mark.parametrize(("number", "pairs"), [(1, 0), (2, 0), (3, 0), (4, 2), (5, 2), (1000, 500)])
def test_the_middle_is_crossed_by_all_pairs_at_once(number, pairs):
    crossing = [pair for round in middle_round(number) for pair in round]
    assert len(crossing) == pairs and {other - one for one, other in crossing} <= {number // 2}


@pytest.mark.parametrize(
    "hosts",
    [
        ["a"],
        ["a", "a", "a"],
        ["a", "b"],
        ["a", "b", "a", "b"],
        ["a", "a", "b"],
        [f"node{rank // 8}" for rank in range(1024)],
        [f"node{rank % 125}" for rank in range(1000)],
    ],
    ids=lambda hosts: f"{len(hosts)} ranks, {len(set(hosts))} hosts",
)
def test_partners_agree_and_there_are_few_rounds(hosts):
    found = list(rounds(hosts))
    assert len(found) <= 8
    met = {kind: set() for kind in (WITHIN, BETWEEN, ACROSS)}
    for kind, partners in found:
        for rank, partner in partners.items():
            assert partners[partner] == rank != partner
            assert (hosts[rank] == hosts[partner]) == (kind == WITHIN)
            met[kind].add(rank)
    several = {rank for rank, host in enumerate(hosts) if hosts.count(host) > 1}
    assert met[WITHIN] == several
    if len(set(hosts)) > 1 and len({hosts.count(host) for host in hosts}) == 1:
        assert met[BETWEEN] == set(range(len(hosts)))


def test_between_hosts_ranks_of_the_same_place_are_partners():
    (first,) = [partners for kind, partners in rounds(["a", "b", "a", "b"]) if kind == BETWEEN]
    assert first == {0: 1, 1: 0, 2: 3, 3: 2}


def test_a_disk_is_written_read_and_left_as_it_was(tmp_path):
    disk = use_disk(tmp_path, 0.001)
    assert disk.write > 0 and disk.read > 0 and disk.shared and not disk.fault
    assert disk.free > fabric.SPARE_BYTES
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_used_says_why(tmp_path, monkeypatch):
    assert use_disk(tmp_path / "absent", 0.1).fault == "No such file or directory"
    (tmp_path / "file").touch()
    assert use_disk(tmp_path / "file", 0.1).fault == "Not a directory"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40 - 1000, 1000))
    assert use_disk(tmp_path, 0.1) == Disk(free=1000, fault="no space to write")


def test_a_disk_that_fails_while_it_is_written_leaves_no_file(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    assert use_disk(tmp_path, 0.1).fault == "No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_another_host_does_not_share_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(fabric, "VISIBLE_SECONDS", 0)
    (tmp_path / "seen").touch()
    assert use_disk(tmp_path, 0.001, tmp_path / "seen").shared
    assert not use_disk(tmp_path, 0.001, tmp_path / "unseen").shared


def test_a_disk_that_never_answers_does_not_hold_the_check(monkeypatch):
    monkeypatch.setattr(fabric, "LONGEST_DISK_SECONDS", 0.01)
    answer = threading.Event()
    try:
        assert fabric._in_time(lambda: answer.wait() and Disk()).fault == "no answer in 0 seconds"
    finally:
        answer.set()


def test_a_partner_that_does_not_answer_is_named_to_all_ranks(monkeypatch):
    told = []

    class Rank(World):
        def all(self, flag):
            return flag

    def fail(operations):
        raise RuntimeError("Timed out waiting 120000ms for recv operation\nmore")

    monkeypatch.setattr(fabric.dist, "P2POp", lambda *args: args)
    monkeypatch.setattr(fabric.dist, "batch_isend_irecv", fail)
    monkeypatch.setattr(fabric.peer_monitor, "tell", told.append)
    message = (
        "rank 2 on node1 cannot exchange messages with rank 3 on node9: Timed out waiting 120000ms for recv op"
    )
    with pytest.raises(RankRunError, match=message) as raised:
        fabric.exchange(Rank(2, 0, 4, torch.device("cpu")), 3, 1.0, ["node0", "node0", "node1", "node9"])
    assert told == [raised.value]
