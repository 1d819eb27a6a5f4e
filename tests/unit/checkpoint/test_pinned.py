"""The packing of tensors into pinned blocks, and the blocks themselves where pinning is played."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2dist.checkpoint.parts import deal
from gpt2dist.checkpoint.pinned import HostTensors, pack
from gpt2dist.model.huggingface import parameter_shapes
from gpt2dist.model.shape import PRESETS, Shape


def check(sizes):
    """Each item lies once, in a block whose size is a power of two, and no two overlap."""
    blocks = pack(sizes)
    placed = [name for _, starts in blocks for name in starts]
    assert sorted(placed) == sorted(sizes)
    for size, starts in blocks:
        assert size & (size - 1) == 0
        ends = [(start, start + sizes[name]) for name, start in starts.items()]
        assert all(end <= after for (_, end), (after, _) in itertools.pairwise(ends))
        assert ends[0][0] == 0 and ends[-1][1] <= size
    return sum(size for size, _ in blocks)


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 10**9), max_size=30))
def test_items_lie_in_blocks_without_overlap_and_never_take_more_than_one_by_one(sizes):
    assert check(sizes) <= 2 * sum(sizes.values())


@pytest.mark.parametrize(
    ("sizes", "blocks"),
    [
        ({"a": 5}, [(8, {"a": 0})]),
        ({"a": 8, "b": 8}, [(16, {"a": 0, "b": 8})]),
        ({"a": 5, "b": 5, "c": 5}, [(16, {"a": 0, "b": 5, "c": 10})]),  # one by one: 24
        ({"small": 3, "large": 5}, [(8, {"large": 0, "small": 5})]),
        ({}, []),
    ],
)
def test_the_block_with_the_smallest_unused_part_is_chosen(sizes, blocks):
    assert pack(sizes) == blocks


@pytest.mark.parametrize(("ranks", "waste"), [(1, 0.004), (8, 0.07)])
@pytest.mark.parametrize("name", list(PRESETS))
def test_the_checkpoints_of_gpt2_waste_little(name, ranks, waste):
    """One by one, tensors would waste 12 to 66 %."""
    shape = Shape(*PRESETS[name], context_length=1024, vocab_size=50257)
    numbers = {each: torch.Size(size).numel() for each, size in parameter_shapes(shape).items()}
    packed = 0
    for mine in deal(numbers, ranks):
        sizes = {f"{key}.{each}": numbers[each] for each in mine for key in ("param", "exp_avg", "exp_avg_sq")}
        packed += check(sizes)
        assert check(sizes) <= sum(1 << (size - 1).bit_length() for size in sizes.values())
    assert packed / (3 * shape.parameters) - 1 < waste


def test_pinned_tensors_share_blocks_which_are_reused(monkeypatch):
    allocated, empty = [], torch.empty

    def played(*shape, pin_memory=False, **more):
        allocated.append((*shape, pin_memory))
        return empty(*shape, **more)

    monkeypatch.setattr(torch, "empty", played)
    shapes = {"a": torch.Size((2, 3)), "b": torch.Size((5,)), "c": torch.Size((5,))}
    host = HostTensors(shapes)
    assert allocated == []
    tensors = {name: host.get(name, pinned=True).fill_(number) for number, name in enumerate(shapes)}
    assert allocated == [(16, True)]
    for number, (name, shape) in enumerate(shapes.items()):
        assert tensors[name].shape == shape and tensors[name].is_contiguous()
        assert (tensors[name] == number).all()
        assert host.get(name, pinned=True) is tensors[name]
    assert len({each.untyped_storage().data_ptr() for each in tensors.values()}) == len(allocated) == 1


def test_tensors_of_a_cpu_have_memory_of_their_own():
    host = HostTensors({"a": torch.Size((2, 3)), "b": torch.Size(())})
    assert [host.get(name, pinned=False).untyped_storage().nbytes() for name in ("a", "b")] == [24, 4]
