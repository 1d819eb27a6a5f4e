"""Who works on which matrix and what is sent: the plan, without processes."""

import itertools
import random

import pytest
import torch

from gpt2dist.training.optimizers.base import Fragment
from gpt2dist.training.optimizers.matrix_exchange import choose_owners, make_plan


def partitioned(sizes, world_size):
    """Matrices one after the other, cut into parts of equal size, as DeepSpeed does."""
    part = -(-sum(sizes) // world_size)
    out, begin = [], 0
    for number, size in enumerate(sizes):
        for rank in range(world_size):
            start, stop = max(begin, rank * part), min(begin + size, (rank + 1) * part)
            if start < stop:
                out.append(Fragment(rank, number, start - begin, stop - begin, 0, start - rank * part))
        begin += size
    return out


def replicated(sizes, world_size):
    return [Fragment(r, n, 0, size, n, 0) for r in range(world_size) for n, size in enumerate(sizes)]


def simulate(sizes, fragments, world_size):
    """Exchange random matrices by the plans; each owner negates its own. Returns owners and what was sent."""
    plans = [make_plan(sizes, sizes, fragments, rank, world_size) for rank in range(world_size)]
    values = [torch.randn(size) for size in sizes]
    owned = {number: rank for rank, plan in enumerate(plans) for number in plan.owned}
    assert sorted(owned) == list(range(len(sizes)))  # each exactly once
    assert sum(len(plan.owned) for plan in plans) == len(sizes)
    for a, b in itertools.product(range(world_size), repeat=2):
        for kind in ("gather", "scatter"):  # both sides expect the same, in the same order
            assert getattr(plans[a], kind).sent[b] == getattr(plans[b], kind).received[a]
    for rank, plan in enumerate(plans):
        for number in plan.owned:  # an owner gets each element exactly once
            held = [each for each in plan.local if each.parameter == number]
            held += [each for part in plan.gather.received for each in part if each.parameter == number]
            whole = torch.cat([values[number][f.start : f.stop] for f in sorted(held, key=lambda f: f.start)])
            assert torch.equal(whole, values[number])
        back = [each for part in plan.scatter.received for each in part]
        own = [each for each in plan.local if owned[each.parameter] == rank]
        assert sorted([*back, *own], key=repr) == sorted(plan.local, key=repr)
    empty = {kind: {getattr(plan, kind).is_empty for plan in plans} for kind in ("gather", "scatter")}
    assert all(len(each) == 1 for each in empty.values())  # all ranks agree whether there is a collective
    sent = sum(each.size for plan in plans for part in plan.gather.sent for each in part)
    return plans, sent


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_each_matrix_has_one_owner_who_gets_all_of_it(world_size):
    draw = random.Random(world_size)
    for _ in range(20):
        sizes = [draw.randint(1, 60) for _ in range(draw.randint(1, 9))]
        simulate(sizes, partitioned(sizes, world_size), world_size)
        _, sent = simulate(sizes, replicated(sizes, world_size), world_size)
        assert sent == 0  # all have everything


def test_only_matrices_across_a_border_are_sent():
    sizes = [10, 10, 10, 10]
    plans, sent = simulate(sizes, partitioned(sizes, 2), 2)
    assert sent == 0 and plans[0].gather.is_empty and plans[0].scatter.is_empty
    plans, sent = simulate([10, 10, 10], partitioned([10, 10, 10], 2), 2)
    assert sent == 5 and [plan.owned for plan in plans] == [(0,), (1, 2)]
    plans, sent = simulate([9, 12, 9, 3], partitioned([9, 12, 9, 3], 3), 3)  # parts of 11
    assert [plan.owned for plan in plans] == [(0,), (1,), (2, 3)] and sent == 2 + 1


def test_the_work_on_copies_is_balanced():
    costs = [5, 4, 3, 3, 3]
    owners = choose_owners(costs, costs, replicated(costs, 2), 2)
    work = [sum(c for c, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(2)]
    assert work == [8, 10]
