"""Protocol of the model and optimizer state of all ranks, which a checkpoint saves and restores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gpt2dist.distributed.world import World

EMBEDDING = "transformer.wte.weight"
Read = Callable[[int, int], Tensor]
"""Function that returns the elements [begin, end) of a flattened tensor, as fp32 on the CPU. If it returns fewer,
the rest keeps its values."""


Holdings = Callable[[str, int], range]
"""Returns which elements of a parameter, flattened, a rank holds. They are those of its state, too."""


class WholeState(Protocol):
    """State that a checkpoint saves and restores; see `PartitionedState`."""

    parameters: dict[str, Any]
    groups: Sequence[Sequence[str]]

    def shape_of(self, name: str) -> torch.Size: ...  # noqa: D102
    def state_names(self, name: str) -> tuple[str, ...]: ...  # noqa: D102
    def holdings(self, world: World) -> Holdings: ...  # noqa: D102
    def local(self, name: str, key: str) -> Tensor: ...  # noqa: D102
    def restore(self, name: str, readers: Mapping[str, Read]) -> None: ...  # noqa: D102
    def materialise(self, updates: int, restarted: Mapping[str, int] | None = None) -> None: ...  # noqa: D102
    def link(self) -> None: ...  # noqa: D102
    def refresh(self) -> None: ...  # noqa: D102


class Unpartitioned(ABC):
    """Base of a state that every rank holds whole."""

    @abstractmethod
    def shape_of(self, name: str) -> torch.Size:
        """Return the shape of a parameter."""

    @abstractmethod
    def gather(self, name: str) -> dict[str, Tensor]:
        """Return a parameter as `param`, and its state tensors by name, whole."""

    def holdings(self, world: World) -> Holdings:
        """Return that every rank holds all."""
        return lambda name, rank: range(self.shape_of(name).numel())

    def local(self, name: str, key: str) -> Tensor:
        """Return the whole parameter (`param`) or one of its state tensors, flat."""
        return self.gather(name)[key].reshape(-1)


def saved_shape(name: str, shape: torch.Size, vocab_size: int) -> torch.Size:
    """Return the shape of a parameter in a checkpoint, which has no padding of the vocabulary."""
    return torch.Size((min(vocab_size, shape[0]), *shape[1:])) if name == EMBEDDING else shape
