"""Protocol of the model and optimizer state of all ranks, which a checkpoint saves and restores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

EMBEDDING = "transformer.wte.weight"
Read = Callable[[int, int], Tensor]
"""Function that returns the elements [begin, end) of a flattened tensor, as fp32 on the CPU. If it returns fewer,
the rest keeps its values."""


class WholeState(Protocol):
    """State that a checkpoint saves and restores; see `PartitionedState`."""

    parameters: dict[str, Any]
    groups: Sequence[Sequence[str]]

    def shape_of(self, name: str) -> torch.Size: ...  # noqa: D102
    def state_names(self, name: str) -> tuple[str, ...]: ...  # noqa: D102
    def gather(self, name: str) -> dict[str, Tensor]: ...  # noqa: D102
    def restore(self, name: str, readers: Mapping[str, Read]) -> None: ...  # noqa: D102
    def materialise(self, updates: int, restarted: Mapping[str, int] | None = None) -> None: ...  # noqa: D102
    def link(self) -> None: ...  # noqa: D102
    def refresh(self) -> None: ...  # noqa: D102


def saved_shape(name: str, shape: torch.Size, vocab_size: int) -> torch.Size:
    """Return the shape of a parameter in a checkpoint, which has no padding of the vocabulary."""
    return torch.Size((min(vocab_size, shape[0]), *shape[1:])) if name == EMBEDDING else shape
