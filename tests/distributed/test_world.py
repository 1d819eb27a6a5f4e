"""What ranks tell each other."""

import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from gpt2dist.distributed.world import World, is_peer_loss, join, lost_peers
from gpt2dist.errors import PeerLostError, UserError
from tests.support.ranks import RankFailedError, run_ranks


def worked_on_main(fault):
    world, done = join(), []

    def work():
        if fault:
            raise UserError(fault)
        done.append(world.rank)
        return "found"

    try:
        return world.on_main(work), done
    except UserError as error:
        return str(error), done


def test_rank_0_works_for_all_of_them():
    assert run_ranks(worked_on_main, 2, "") == [("found", [0]), ("found", [])]


def test_what_rank_0_finds_wrong_every_rank_raises():
    assert run_ranks(worked_on_main, 2, "no such file") == [("no such file", [])] * 2


def failed_on_main():
    try:
        join().on_main(lambda: 1 // 0)
    except Exception as error:
        return type(error).__name__, str(error)


def test_where_rank_0_fails_no_rank_waits_for_it():
    zero = "integer division or modulo by zero"
    assert run_ranks(failed_on_main, 2) == [
        ("ZeroDivisionError", zero),
        ("PeerLostError", f"rank 0 failed: ZeroDivisionError: {zero}"),
    ]


def test_alone_a_rank_works_for_itself():
    alone = World(0, 0, 1, torch.device("cpu"))
    assert alone.on_main(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        alone.on_main(lambda: 1 // 0)


def losses_of_a_peer(way, report):
    """What rank 0 meets in three collectives where rank 1 dies or hangs before them."""
    world = join(timedelta(seconds=3))
    dist.barrier()
    if world.rank == 1:
        if way == "dies":
            os._exit(0)
        time.sleep(8)
        os._exit(0)
    met = []
    work = [
        lambda: world.gather(1),
        lambda: dist.all_reduce(torch.ones(3), async_op=True).wait(),
        dist.barrier,
    ]
    for collective in work:
        try:
            with lost_peers():
                collective()
        except Exception as error:
            met.append(type(error).__name__)
    report.write_text(" ".join(met))


@pytest.mark.parametrize("way", ["dies", "hangs"])
def test_a_lost_rank_is_known_by_the_type_of_the_exception(way, tmp_path):
    with pytest.raises(RankFailedError, match="rank 1 died"):
        run_ranks(losses_of_a_peer, 2, way, tmp_path / "report")
    assert (tmp_path / "report").read_text().split() == ["PeerLostError"] * 3


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (dist.DistNetworkError("The client socket has timed out after 3000ms"), True),
        (dist.DistStoreError("wait timeout after 3000ms, keys: /a"), True),
        (
            dist.DistBackendError(
                "NCCL error in: x.cpp:1, remote process exited\nncclRemoteError: A call failed"
            ),
            True,
        ),
        (
            dist.DistBackendError("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1)"),
            True,
        ),
        (dist.DistBackendError("NCCL error: invalid usage\nncclInvalidUsage: Duplicate GPU detected"), False),
        (RuntimeError("[/src/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv"), True),
        (
            RuntimeError("[enforce fail at /src/gloo/transport/tcp/pair.cc:446] op.length <= op.nbytes. 8 vs 4"),
            False,
        ),
        (RuntimeError("the request to the tracker timed out"), False),
        (OSError("Connection reset by peer"), False),  # a file system or a tracker, not a rank
    ],
)
def test_what_is_a_lost_rank_and_what_is_not(error, lost):
    assert is_peer_loss(error) is lost
    with pytest.raises(PeerLostError if lost else type(error)) as raised, lost_peers():
        raise error
    assert str(raised.value) == str(error)
