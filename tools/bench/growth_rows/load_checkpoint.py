"""Load a checkpoint as the last of 1,024 ranks at ZeRO stage 3: the bytes of its files that go through this rank.

The files are sparse, so that they take no space. Their hashes are not checked here: the ranks share that.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from gpt2dist.checkpoint.restore import restore
from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.distributed.world import World
from gpt2dist.model.huggingface import parameter_shapes
from gpt2dist.model.shape import PRESETS, Shape
from gpt2dist.training.partition import part_size

TITLE = "load a checkpoint, as rank 1023 of 1,024"
UNIT = "parameters"
MODELS = {124_439_808: "gpt2-124m", 354_823_168: "gpt2-355m", 1_557_611_200: "gpt2-1558m"}
SIZES = tuple(MODELS)
RANKS = 1024
VOCABULARY = 50257
MOMENTS = ("exp_avg", "exp_avg_sq")
ORDER = {"run.seed": 0, "batch.global_batch_size": 1, "data.sequence_length": 8, "data.stride": 8}
ORDER |= {"data.loss_on": "all", "data.document_boundaries": "pack"}


class Lonely(World):
    """The last rank, which opens the files as if it were the first of its host, and hears of no other."""

    def gather(self, value: Any) -> list[Any]:  # noqa: D102
        return [value]

    def broadcast(self, value: Any) -> Any:  # noqa: D102
        return value


class Part:
    """The part of a state that one rank has at stage 3."""

    def __init__(self, shapes: dict[str, torch.Size]):
        self.parameters: dict[str, Any] = dict(shapes)
        self.groups = [list(shapes)]
        self.elements = 0

    def shape_of(self, name: str) -> torch.Size:  # noqa: D102
        return self.parameters[name]

    def state_names(self, name: str) -> tuple[str, ...]:  # noqa: D102
        return MOMENTS

    def restore(self, name: str, readers: dict[str, Any]) -> None:  # noqa: D102
        elements = math.prod(self.parameters[name])
        size = part_size(elements, RANKS)
        begin, end = (min(place, elements) for place in (size * (RANKS - 1), size * RANKS))
        self.elements += sum(len(read(begin, end)) for read in readers.values())

    def materialise(self, updates: int, restarted: Any = None) -> None:  # noqa: D102
        pass

    def refresh(self) -> None:  # noqa: D102
        pass


def prepare(size: int, directory: Path) -> None:
    """Write a checkpoint without the manifest, which loading does not read."""
    shapes = _shapes(size)
    _write_sparse(directory / "model-00001-of-00001.safetensors", shapes)
    _write_sparse(
        directory / "optimizer-00001-of-00001.safetensors",
        {f"{key}.{name}": shape for name, shape in shapes.items() for key in MOMENTS},
    )
    TrainerState(1, 0, 0, 1, True, 0.1, {}, {}, 1.0, [], "t", ORDER, 1, 3, "fp32").write(directory)


def measure(size: int, directory: Path) -> dict[str, float]:
    """Load it, and count the bytes that this process read."""
    total = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    before = _bytes_read()
    state = Part(_shapes(size))
    restore(directory, state, Lonely(RANKS - 1, 0, RANKS, torch.device("cpu")), VOCABULARY)
    read = _bytes_read() - before
    return {"bytes_read": read, "of_all_bytes": read / total, "elements": state.elements}


def _shapes(size: int) -> dict[str, torch.Size]:
    layers, heads, width = PRESETS[MODELS[size]]
    shape = Shape(layers, heads, width, 1024, VOCABULARY)
    return {name: torch.Size(each) for name, each in parameter_shapes(shape).items()}


def _write_sparse(path: Path, shapes: dict[str, torch.Size]) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)


def _bytes_read() -> int:
    """Bytes that this process has read by system calls, from disk or from memory."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])
