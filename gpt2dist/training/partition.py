"""How ZeRO stage 3 divides a tensor: flattened, padded with zeros at its end, one part of equal size per rank.

Pure functions of a shape and a number of ranks. A tensor of n elements has parts of ⌈n / world_size⌉; where
world_size does not divide n, the last ranks hold padding, and some of them nothing else.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def part_size(elements: int, world_size: int) -> int:
    """Elements of each part, padding included."""
    return -(-elements // world_size)


def cut_part(whole: Tensor, rank: int, world_size: int) -> Tensor:
    """The part of a tensor that one rank holds.

    Args:
        whole: A tensor of any shape.
        rank: The rank, from 0.
        world_size: Ranks that the tensor is divided among.

    Returns:
        `part_size` elements of the same dtype, on the same device; a view of `whole` where nothing is padded.
    """
    flat = whole.reshape(-1)
    size = part_size(flat.numel(), world_size)
    part = flat[rank * size : (rank + 1) * size]
    if part.numel() == size:
        return part
    return torch.cat([part, part.new_zeros(size - part.numel())])


def join_parts(parts: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor whose parts lie one after the other, in the order of their ranks.

    Args:
        parts: world_size × `part_size` elements, as an all-gather leaves them.
        shape: Of the whole tensor.

    Returns:
        A view of `parts` of that shape, without the padding.
    """
    return parts.reshape(-1)[: math.prod(shape)].view(torch.Size(shape))
