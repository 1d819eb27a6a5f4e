"""What ranks tell each other."""

import pytest
import torch

from gpt2dist.distributed.world import World, join
from gpt2dist.errors import UserError
from tests.support.ranks import run_ranks


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


def test_alone_a_rank_works_for_itself():
    alone = World(0, 0, 1, torch.device("cpu"))
    assert alone.on_main(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        alone.on_main(lambda: 1 // 0)
