"""Deal the tensors of a checkpoint to the ranks, which write a file each."""

from typing import Any

import torch


def deal(sizes: dict[str, int], ranks: int) -> list[set[str]]:
    """Deal items to at most `ranks` parts of about the same total size, the largest items first.

    Args:
        sizes: Name → size, in elements or bytes.
        ranks: Maximum number of parts.

    Returns:
        Non-empty sets of names; the same on every rank.
    """
    parts: list[set[str]] = [set() for _ in range(min(ranks, len(sizes)))]
    loads = [0] * len(parts)
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        lightest = loads.index(min(loads))
        parts[lightest].add(name)
        loads[lightest] += sizes[name]
    return parts


def index(shapes: dict[str, torch.Size], parts: list[set[str]]) -> dict[str, Any]:
    """Return the content of model.safetensors.index.json, which maps each weight to its file."""
    return {
        "metadata": {"total_size": sum(4 * shape.numel() for shape in shapes.values())},
        "weight_map": {
            name: f"model-{number:05d}-of-{len(parts):05d}.safetensors"
            for number, names in enumerate(parts, 1)
            for name in sorted(names)
        },
    }
