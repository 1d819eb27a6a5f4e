"""The exchange before a save, on ranks that are threads, with the partitions of all stages."""

import itertools
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2dist.checkpoint import snapshot as module
from gpt2dist.checkpoint.parts import PartBytes, make_parts
from gpt2dist.checkpoint.snapshot import Snapshot, plan_rounds
from gpt2dist.training.partition import part_range
from tests.support.stores import CPU, ThreadWorld

SHAPES = {"wte": (50, 6), "bias": (7,), "w": (9, 5), "scale": (), "b2": (1,)}
STATE = ("exp_avg", "exp_avg_sq")
WHOLE = {
    (key, name): torch.arange(1000 * i, 1000 * i + math.prod(shape)).float().view(shape)
    for i, (key, (name, shape)) in enumerate(itertools.product(("param", *STATE), SHAPES.items()))
}


def of_stage_3(name, rank, ranks):
    """Each tensor is divided among all ranks."""
    return part_range(math.prod(SHAPES[name]), rank, ranks)


def of_stage_1(name, rank, ranks):
    """The concatenated tensors are divided."""
    ends = dict(zip(SHAPES, itertools.accumulate(map(math.prod, SHAPES.values())), strict=True))
    start = ends[name] - math.prod(SHAPES[name])
    here = part_range(max(ends.values()), rank, ranks)
    begin, end = max(here.start, start) - start, min(here.stop, ends[name]) - start
    return range(begin, end) if begin < end else range(0)


def of_stage_0(name, rank, ranks):
    """Each rank has all."""
    return range(math.prod(SHAPES[name]))


PARTITIONS = {0: of_stage_0, 1: of_stage_1, 3: of_stage_3}


class Partitioned:
    """The state of one rank, which holds its elements only."""

    parameters = SHAPES

    def __init__(self, stage, rank, ranks):
        self.held = lambda name, of: PARTITIONS[stage](name, of, ranks)
        self.own = {
            (key, name): tensor.reshape(-1)[self.held(name, rank).start : self.held(name, rank).stop].clone()
            for (key, name), tensor in WHOLE.items()
        }

    def link(self):
        pass

    def holdings(self, world):
        return self.held

    def local(self, name, key):
        return self.own[key, name]


class CountingWorld(ThreadWorld):
    exchanges: list

    def exchange(self, sent, sent_sizes, received, received_sizes):
        self.exchanges.append((len(sent), len(received)))
        super().exchange(sent, sent_sizes, received, received_sizes)


def take(stage, ranks, smallest=40):
    """Each rank's pieces after a snapshot, and the sizes of what it sent and received in each exchange."""
    board, meet = {}, threading.Barrier(ranks)
    parts = make_parts(SHAPES, dict.fromkeys(SHAPES, STATE), ranks, PartBytes(smallest, 10**6))

    def on(rank):
        world = CountingWorld(rank, rank, ranks, CPU, board, meet)
        object.__setattr__(world, "exchanges", [])
        return Snapshot(world).take(Partitioned(stage, rank, ranks), parts), world.exchanges

    with ThreadPoolExecutor(ranks) as pool:
        return parts, list(pool.map(on, range(ranks)))


@pytest.mark.parametrize("bucket", [1, 13, 10**6])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("stage", list(PARTITIONS))
def test_each_rank_gets_the_rows_that_it_writes(monkeypatch, stage, ranks, bucket):
    monkeypatch.setattr(module.plan_rounds, "__defaults__", (bucket,))
    parts, results = take(stage, ranks)
    for rank, (pieces, exchanges) in enumerate(results):
        assert set(pieces) == {piece for part in parts if part.rank == rank for piece in part.pieces}
        for piece, tensor in pieces.items():
            whole = WHOLE[piece.key, piece.name]
            assert torch.equal(tensor, whole[piece.begin : piece.end] if whole.dim() else whole)
        assert all(received <= bucket for _, received in exchanges)
    counts = {len(exchanges) for _, exchanges in results}
    received = [sum(size for _, size in exchanges) for _, exchanges in results]
    assert counts == {math.ceil(max(received) / bucket)}
    assert (stage == 0 or ranks == 1) == (counts == {0})


def test_the_number_of_exchanges_does_not_depend_on_the_number_of_tensors():
    def rounds(shapes, ranks=4):
        parts = make_parts(shapes, dict.fromkeys(shapes, STATE), ranks, PartBytes(1000, 10**9))
        pieces = [
            [piece for part in parts if part.rank == rank for piece in part.pieces] for rank in range(ranks)
        ]
        held = lambda name, rank: part_range(math.prod(shapes[name]), rank, ranks)  # noqa: E731
        return [len(list(plan_rounds(pieces, held, rank, bucket=25_000))) for rank in range(ranks)]

    assert rounds({"a": (4000, 16)}) == rounds({str(number): (40, 16) for number in range(100)}) == [2] * 4


@given(st.integers(0, 2), st.integers(1, 6), st.integers(1, 500))
def test_what_one_rank_sends_is_what_the_other_expects(stage, ranks, bucket):
    partition = list(PARTITIONS.values())[stage]
    parts = make_parts(SHAPES, dict.fromkeys(SHAPES, STATE), ranks, PartBytes(40, 10**6))
    pieces = [[piece for part in parts if part.rank == rank for piece in part.pieces] for rank in range(ranks)]
    plans = [
        list(plan_rounds(pieces, lambda name, of: partition(name, of, ranks), rank, bucket))
        for rank in range(ranks)
    ]
    assert len({len(plan) for plan in plans}) == 1
    for each in zip(*plans, strict=True):
        for sender, receiver in itertools.product(range(ranks), repeat=2):
            assert each[sender].sent[receiver] == each[receiver].received[sender]
            assert sender != receiver or not each[sender].sent[receiver]
        for rank in range(ranks):
            held = sum(3 * len(partition(name, rank, ranks)) for name in SHAPES)
            assert sum(span.size for to in each[rank].sent for span in to) <= held


def test_the_memory_is_used_again_until_the_pieces_change():
    world = ThreadWorld(0, 0, 1, CPU)
    snapshot, state = Snapshot(world), Partitioned(0, 0, 1)
    first = snapshot.take(state, make_parts(SHAPES, dict.fromkeys(SHAPES, STATE), 1))
    state.own["param", "w"] += 1
    second = snapshot.take(state, make_parts(SHAPES, dict.fromkeys(SHAPES, STATE), 1))
    assert all(second[piece] is tensor for piece, tensor in first.items())
    assert any(torch.equal(tensor, WHOLE["param", "w"] + 1) for tensor in second.values())
    third = snapshot.take(state, make_parts(SHAPES, dict.fromkeys(SHAPES, ("exp_avg",)), 1))
    assert len(third) == 10
