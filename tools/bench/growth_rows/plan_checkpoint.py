"""Plan the files of a checkpoint of GPT-2 1.5 B, and what the last rank at ZeRO stage 3 sends and receives."""

from collections import Counter
from pathlib import Path

import torch

from gpt2dist.checkpoint.parts import make_parts
from gpt2dist.checkpoint.snapshot import plan_rounds
from gpt2dist.model.huggingface import parameter_shapes
from gpt2dist.model.shape import PRESETS, Shape
from gpt2dist.training.partition import part_range

TITLE = "plan a checkpoint of 580 tensors"
UNIT = "ranks"
SIZES = (10, 100, 1000)
SHAPES = parameter_shapes(Shape(*PRESETS["gpt2-1558m"], 1024, 50257))
ELEMENTS = {name: torch.Size(shape).numel() for name, shape in SHAPES.items()}


def measure(size: int, directory: Path) -> dict[str, float]:
    """Plan both."""
    parts = make_parts(SHAPES, dict.fromkeys(SHAPES, ("exp_avg", "exp_avg_sq")), size)
    pieces = [[piece for part in parts if part.rank == rank for piece in part.pieces] for rank in range(size)]
    rounds = list(plan_rounds(pieces, lambda name, rank: part_range(ELEMENTS[name], rank, size), size - 1))
    loads: Counter[int] = Counter()
    for part in parts:
        loads[part.rank] += part.bytes
    return {
        "files": len(parts),
        "writers": len(loads),
        "most_over_mean": max(loads.values()) * len(loads) / sum(loads.values()),
        "collectives": len(rounds),
        "largest_send_mib": max(4 * sum(span.size for to in each.sent for span in to) for each in rounds) / 2**20,
    }
