"""Save a checkpoint as the last of eight ranks at ZeRO stage 3: what this rank holds, receives and writes.

The other ranks do not exist: what they would send is zeros.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.checkpoint.store import CheckpointStore
from gpt2dist.checkpoint.whole_state import Holdings
from gpt2dist.distributed.world import World
from gpt2dist.model.huggingface import parameter_shapes
from gpt2dist.model.shape import PRESETS, Shape
from gpt2dist.training.partition import part_range

TITLE = "save a checkpoint, as rank 7 of 8"
UNIT = "parameters"
RANKS = 8
VOCABULARY = 50257
SHAPES = [(6, 4, 160), (8, 8, 512), PRESETS["gpt2-124m"]]
MODELS = {shape.parameters: shape for each in SHAPES for shape in [Shape(*each, 1024, VOCABULARY)]}
SIZES = tuple(MODELS)
MOMENTS = ("exp_avg", "exp_avg_sq")
EXCHANGED: list[tuple[int, int]] = []
"""Bytes that each exchange sent and received."""


class Lonely(World):
    """The last rank, which hears of no other."""

    def gather(self, value: Any) -> list[Any]:  # noqa: D102
        return [value]

    def exchange(  # noqa: D102
        self, sent: Tensor, sent_sizes: list[int], received: Tensor, received_sizes: list[int]
    ) -> None:
        assert (len(sent), len(received)) == (sum(sent_sizes), sum(received_sizes))
        EXCHANGED.append((4 * len(sent), 4 * len(received)))
        received.zero_()


class OwnPart:
    """This rank's part of a model's state: zeros."""

    groups = ()

    def __init__(self, shape: Shape):
        self.parameters = {name: torch.Size(size) for name, size in parameter_shapes(shape).items()}
        self._own = {name: torch.zeros(len(self._held(name, RANKS - 1))) for name in self.parameters}

    def _held(self, name: str, rank: int) -> range:
        return part_range(self.parameters[name].numel(), rank, RANKS)

    def shape_of(self, name: str) -> torch.Size:  # noqa: D102
        return self.parameters[name]

    def state_names(self, name: str) -> tuple[str, ...]:  # noqa: D102
        return MOMENTS

    def holdings(self, world: World) -> Holdings:  # noqa: D102
        return self._held

    def local(self, name: str, key: str) -> Tensor:  # noqa: D102
        return self._own[name]

    def link(self) -> None:  # noqa: D102
        pass


def measure(size: int, directory: Path) -> dict[str, float]:
    """Save once, without the commit, which is rank 0's."""
    EXCHANGED.clear()
    world = Lonely(RANKS - 1, RANKS - 1, RANKS, torch.device("cpu"))
    store = CheckpointStore(directory / "checkpoints", world, 1, None, VOCABULARY, lambda path: None)
    trainer = TrainerState(1, 0, 0, 0, True, 0.0, {}, {}, 1.0, [], "", {}, 1, 0, "fp32")
    store.save(OwnPart(MODELS[size]), trainer)  # type: ignore[arg-type]  # it is never loaded
    files = list((directory / "checkpoints").glob("*.tmp/*.safetensors"))
    return {
        "collectives": len(EXCHANGED),
        "files": len(files),
        "sent_mib": sum(sent for sent, _ in EXCHANGED) / 2**20,
        "received_mib": sum(received for _, received in EXCHANGED) / 2**20,
        "written_mib": sum(file.stat().st_size for file in files) / 2**20,
    }
