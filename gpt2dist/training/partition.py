"""The partition of a tensor at ZeRO stage 3: flattened, zero-padded at its end, one part of equal size per rank.

It depends only on the shape and the number of ranks. A tensor of n elements has parts of ⌈n / world_size⌉. If
world_size does not divide n, the last ranks hold padding, and some may hold only padding.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def part_size(elements: int, world_size: int) -> int:
    """Return the number of elements in each part, padding included."""
    return -(-elements // world_size)


def part_range(elements: int, rank: int, world_size: int) -> range:
    """Return which elements of a flattened tensor a rank holds, without padding."""
    size = part_size(elements, world_size)
    return range(min(rank * size, elements), min((rank + 1) * size, elements))


def cut_part(whole: Tensor, rank: int, world_size: int) -> Tensor:
    """Return the part of a tensor that one rank holds.

    Args:
        whole: A tensor of any shape.
        rank: The rank.
        world_size: Number of ranks that share the tensor.

    Returns:
        `part_size` elements of the same dtype, on the same device; a view of a contiguous `whole` unless padded.
    """
    flat = whole.reshape(-1)
    size = part_size(flat.numel(), world_size)
    part = flat[rank * size : (rank + 1) * size]
    if part.numel() == size:
        return part
    return torch.cat([part, part.new_zeros(size - part.numel())])


def join_parts(parts: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the whole tensor from its concatenated parts, in rank order.

    Args:
        parts: world_size × `part_size` elements, as an all-gather returns them.
        shape: Shape of the whole tensor.

    Returns:
        A view of `parts` of that shape, without the padding.
    """
    return parts.reshape(-1)[: math.prod(shape)].view(torch.Size(shape))
