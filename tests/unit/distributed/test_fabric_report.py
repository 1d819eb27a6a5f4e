"""What is reported of made-up measurements of many hosts, in which one thing is wrong."""

import dataclasses

import pytest

from gpt2dist.distributed.fabric import ACROSS, BETWEEN, WITHIN, Disk, Exchange, Measured, rounds
from gpt2dist.distributed.fabric_report import Limits, clock_offsets, findings, summary, table

RATES = {WITHIN: 200e9, BETWEEN: 20e9, ACROSS: 10e9}  # an oversubscribed network


def cluster(hosts=32, ranks=8, slow=lambda kind, one, other: 1.0):
    """What healthy hosts measure, with differences of some percent; `slow` scales the rates of pairs."""
    names = [f"node{rank // ranks:02d}" for rank in range(hosts * ranks)]
    exchanges = [[] for _ in names]
    for kind, partners in rounds(names):
        for rank, partner in partners.items():
            pair = sorted((rank, partner))
            rate = RATES[kind] * (0.9 + 0.1 * (sum(pair) % 7) / 7) * slow(kind, *pair)
            exchanges[rank].append(Exchange(kind, partner, rate))
    return [
        Measured(
            name,
            {"torch": "2.13.0", "GPU": "NVIDIA H100"},
            700e12 * (1 - rank % 5 / 50),
            180e9,
            exchanges[rank],
            [1000.0 + second + rank / 1e6 for second in range(9)],
            Disk(2e9 + rank, 3e9 - rank, 10**12) if rank % ranks == 0 else None,
        )
        for rank, name in enumerate(names)
    ]


def change(measured, rank, **values):
    measured[rank] = dataclasses.replace(measured[rank], **values)
    return measured


@pytest.mark.parametrize(("hosts", "ranks"), [(1, 1), (1, 2), (1, 8), (2, 8), (3, 1), (32, 8), (125, 8)])
def test_nothing_is_wrong_with_healthy_hosts(hosts, ranks):
    assert findings(cluster(hosts, ranks)) == []


def test_a_host_with_a_slow_link_is_named_and_its_partners_are_not():
    def slow(kind, one, other):
        return 0.25 if kind != WITHIN and 17 in (one // 8, other // 8) else 1

    # Its neighbours along the ring reach the usual rate with their other partners.
    assert findings(cluster(slow=slow)) == [
        "node17 (ranks 136–143): between hosts 4.64 GB/s, 24 % of the median",
    ]


def test_a_slow_gpu_link_of_one_rank_is_named():
    found = findings(cluster(slow=lambda kind, one, other: 0.5 if kind == WITHIN and 11 in (one, other) else 1))
    assert found == ["node01 (rank 11): within hosts 97.1 GB/s, 50 % of the median"]


def test_a_cable_between_two_hosts_is_named_where_both_are_well_otherwise():
    def slow(kind, one, other):
        return 0.1 if kind == BETWEEN and (one, other) == (24, 32) else 1

    assert findings(cluster(slow=slow)) == [
        "link of rank 24 on node03 and rank 32 on node04: between hosts 1.8 GB/s, 9.5 % of the median"
    ]


def test_a_link_within_a_host_is_compared_with_those_of_other_hosts():
    def slow(kind, one, other):
        if kind == WITHIN and (one % 8, other % 8) == (3, 4):
            return 0.01 if one == 43 else 0.3  # across the processors of each host
        return 1

    assert findings(cluster(slow=slow)) == [
        "link of rank 43 on node05 and rank 44 on node05: within hosts 1.89 GB/s, 3.3 % of the median"
    ]


def test_a_link_across_the_network_is_compared_with_others_across_it():
    def slow(kind, one, other):
        return 0.3 if kind == ACROSS and one == 8 else 1

    (found,) = findings(cluster(slow=slow))
    assert found.startswith("link of rank 8 on node01 and rank 136 on node17: across the network 2.")


def test_a_slow_gpu_is_named():
    (found,) = findings(change(cluster(), 100, product=400e12))
    assert found == "node12 (rank 100): matrix product 400 TFLOP/s, 60 % of the median"


def test_slow_full_and_unshared_disks_are_named():
    measured = change(cluster(), 8, disk=Disk(0.2e9, 3e9, 10**12))
    change(measured, 16, disk=Disk(fault="Stale file handle"))
    change(measured, 24, disk=Disk(2e9, 3e9, 10**12, shared=False))
    assert findings(measured) == [
        "node02: cannot use the directory: Stale file handle",
        "node03: does not see in the directory what node00 wrote there",
        "node01 (rank 8): disk write 200 MB/s, 10 % of the median",
    ]


def test_a_wrong_clock_is_named_though_one_barrier_was_left_late():
    measured = cluster(3, 2)
    late = [*measured[0].clocks]
    late[4] += 30
    change(measured, 0, clocks=late)
    for rank in (2, 3):
        change(measured, rank, clocks=[time - 5.5 for time in measured[rank].clocks])
    assert findings(measured) == ["node01: its clock is 5.5 s behind the others"]
    assert clock_offsets(measured)[0] == pytest.approx(0, abs=1e-3)


def test_other_versions_are_named():
    measured = cluster(3, 2)
    for rank in (4, 5):
        change(measured, rank, versions={"torch": "2.13.0", "GPU": "NVIDIA A100"})
    change(measured, 0, versions={"torch": "2.12.1", "GPU": "NVIDIA H100"})
    assert findings(measured) == [
        "node00 (rank 0): torch 2.12.1, most have 2.13.0",
        "node02 (ranks 4–5): GPU NVIDIA A100, most have NVIDIA H100",
    ]


def test_the_limit_can_be_chosen():
    measured = change(cluster(), 100, product=400e12)
    assert findings(measured, Limits(0.5, 0.5, 0.5)) == []
    assert findings(cluster(2, 2), Limits(0.99, 0.99, 0.99)) != []


def test_the_summary_and_the_table_have_the_lowest_rates_and_their_places():
    measured = change(cluster(4, 2), 5, product=100e12)
    lines = summary(measured).splitlines()
    assert lines[0] == "8 ranks on 4 hosts: torch 2.13.0, GPU NVIDIA H100"
    assert lines[1].split(maxsplit=1) == ["all-reduce", "180 GB/s through each rank, of all ranks together"]
    assert "lowest 100 TFLOP/s (rank 5 on node02)" in lines[2]
    assert lines[-2].split(maxsplit=2)[2] == "write 8 GB/s, read 12 GB/s"
    assert lines[-1].split(maxsplit=1) == ["clocks", "within 0.0 ms"]
    heads = ("host", "ranks", "product", "within", "between", "across", "write", "read", "free", "clock")
    head, *rows = table(measured).splitlines()
    assert head.split() == list(heads)
    assert [row.split()[:2] for row in rows] == [
        [f"node0{host}", f"{2 * host}–{2 * host + 1}"] for host in range(4)
    ]
    assert rows[2].split()[2:4] == ["100", "TFLOP/s"]


def test_a_single_rank_has_no_network():
    measured = cluster(1, 1)
    assert "all-reduce" not in summary(measured) and "clocks" not in summary(measured)
    assert table(measured).splitlines()[1].split().count("–") == 3
