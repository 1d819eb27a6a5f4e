"""Parts of stage 3, without DeepSpeed: whatever the shape and the number of ranks, nothing is lost or made up."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2dist.training.partition import cut_part, join_parts, part_size

SHAPES = st.lists(st.integers(1, 9), min_size=0, max_size=3)
WORLDS = st.integers(1, 17)


@given(SHAPES, WORLDS, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_the_parts_of_all_ranks_are_the_tensor(shape, world_size, draw):
    elements = math.prod(shape)
    values = [draw.random() for _ in range(elements)]
    whole = torch.tensor(values, dtype=torch.float64).view(shape)
    parts = [cut_part(whole, rank, world_size) for rank in range(world_size)]
    # By definition: equal parts of the least size that holds all, the rest zeros.
    size = math.ceil(elements / world_size)
    assert part_size(elements, world_size) == size
    padded = values + [0.0] * (size * world_size - elements)
    assert [part.tolist() for part in parts] == [padded[r * size : (r + 1) * size] for r in range(world_size)]
    joined = join_parts(torch.cat(parts), shape)
    assert joined.shape == whole.shape and torch.equal(joined, whole)


@given(SHAPES, WORLDS)
@settings(max_examples=100, deadline=None)
def test_a_tensor_that_lies_transposed_is_cut_in_its_own_order(shape, world_size):
    whole = torch.arange(math.prod(shape)).view(shape).transpose(0, -1) if shape else torch.tensor(3)
    parts = torch.cat([cut_part(whole, rank, world_size) for rank in range(world_size)])
    assert join_parts(parts, whole.shape).tolist() == whole.tolist()


@pytest.mark.parametrize(
    ("elements", "world_size", "padding"), [(32768, 3, 1), (1575, 2, 1), (3, 5, 2), (6, 3, 0)]
)
def test_the_last_part_is_padded(elements, world_size, padding):
    last = cut_part(torch.ones(elements), world_size - 1, world_size)
    assert len(last) == part_size(elements, world_size)
    assert last.tolist().count(0) == min(padding, len(last))


def test_a_part_without_padding_is_no_copy():
    whole = torch.zeros(2, 6)
    cut_part(whole, 1, 3).fill_(1)
    assert whole.flatten().tolist() == [0] * 4 + [1] * 4 + [0] * 4
