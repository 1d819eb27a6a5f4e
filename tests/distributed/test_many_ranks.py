"""What grows with the number of ranks: open files, and that many can join at all."""

import resource
from datetime import timedelta
from pathlib import Path

import pytest

from gpt2dist.distributed.world import BackgroundMaximum, join
from tests.support.ranks import run_ranks

FILES = Path("/proc/self/fd")


def joined_and_left(limit):
    """A rank joins and exchanges requests, with this limit of open files; gives how many more it has open."""
    if limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    before = len(list(FILES.iterdir()))
    world = join(timedelta(seconds=400))
    maximum, heard = BackgroundMaximum(world), []
    for number in (world.rank, -world.rank):
        maximum.send(number)
        heard.append(maximum.settle())
    said = world.from_main(world.rank), world.first("stop" if world.rank == world.size - 1 else "")
    count = len(list(FILES.iterdir())) - before
    world.all(True)  # rank 0 holds the store, and leaves when all are done
    return count, heard, said


@pytest.mark.parametrize("size", [8, 16, 32])
def test_open_files_grow_by_one_a_rank_on_rank_0_and_hardly_on_others(size):
    first, *others = run_ranks(joined_and_left, size, None)
    assert first[0] <= 28 + size
    assert max(count for count, *_ in others) <= 20
    assert all(result[1:] == ([(size - 1,), (0,)], (0, "stop")) for result in (first, *others))


@pytest.mark.slow
def test_256_ranks_join_exchange_requests_and_end_with_the_usual_limit_of_open_files():
    size = 256
    counts, heard, said = zip(*run_ranks(joined_and_left, size, 1024, timeout=500), strict=True)
    assert counts[0] <= 40 + size
    assert set(map(str, heard)) == {str([(size - 1,), (0,)])} and set(said) == {(0, "stop")}
