"""Load a new run's initial weights from the model that `model.init_from` names."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from gpt2dist import hub
from gpt2dist.checkpoint.shared_hashing import require_whole_model
from gpt2dist.checkpoint.tensor_files import RangeReaders, TensorFiles, zeros
from gpt2dist.checkpoint.whole_state import Read
from gpt2dist.distributed.hosts import first_fault, on_each_host
from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.model.find_model import fingerprint, locate, weight_files
from gpt2dist.model.huggingface import PREFIX, bare_name
from gpt2dist.training.zero_state import PartitionedState

T = TypeVar("T")

RESIZABLE = ("transformer.wte.weight", "transformer.wpe.weight")


def load_initial_weights(name: str, world: World, state: PartitionedState) -> dict[str, str]:
    """Copy the weights of another model into a new one. Rows that the other lacks are unchanged. Collective.

    Args:
        name: Value of `model.init_from`: a directory or hub name. The preflight has checked the model's shape.
        world: This rank. Rank 0 downloads, all ranks share the hashing of a checkpoint, one rank of each host
            reads the headers of the files, and each rank reads its own part of the weights.
        state: The new model's weights and optimizer state.

    Returns:
        The `path` and `fingerprint` of the weights, and for a model on the hub its `source`, NAME@COMMIT.

    Raises:
        UserError: The weights cannot be read, are not finite, or are not those of a GPT-2 of this shape.
    """
    directory = world.on_main(lambda: _named(locate, name))
    _named(require_whole_model, directory, world)
    digest = world.on_main(lambda: fingerprint(directory))
    weights = _Weights(directory, on_each_host(world, lambda: _named(_open, directory)))
    for parameter in state.parameters:
        fresh: dict[str, Read] = dict.fromkeys(state.state_names(parameter), zeros)
        state.restore(parameter, fresh | {"param": weights.reader(parameter, state.shape_of(parameter))})
    weights.files.close()
    if fault := first_fault(world, weights.ranges.fault):
        raise UserError(f"model.init_from: the weights in {directory} cannot be read ({fault})")
    weights.require_finite(world)
    state.refresh()
    source = hub.source_of(directory)
    return {"path": str(directory), "fingerprint": digest} | ({"source": source} if source else {})


class _Weights:
    """Tensors of a model directory, under the names of our parameters."""

    def __init__(self, directory: Path, files: TensorFiles):
        self.files = files
        self.ranges = RangeReaders()
        self._directory = directory
        self._names = {PREFIX + bare_name(name): name for name in files}
        self._bad: dict[str, int] = {}

    def reader(self, parameter: str, shape: tuple[int, ...]) -> Read:
        """Return a function that reads a parameter; if it is resizable, only the rows that both models have."""
        name = self._names[parameter]
        rows = min(self.files.shape(name)[0], shape[0]) if parameter in RESIZABLE else shape[0]
        read = self.ranges.reader(self.files, name, rows * math.prod(shape[1:]))

        def read_and_count(begin: int, end: int) -> Tensor:
            found = read(begin, end)
            if bad := int((~found.isfinite()).sum()):
                self._bad[name] = self._bad.get(name, 0) + bad
            return found

        return read_and_count

    def require_finite(self, world: World) -> None:
        """Check that no rank has read a value that is NaN or infinite. Collective.

        Raises:
            UserError: One has; the message names the tensor.
        """
        parts: list[dict[str, int]] = world.gather(self._bad)
        for name in self.files:
            if bad := sum(part.get(name, 0) for part in parts):
                raise UserError(
                    f"model.init_from: {self._directory}: {bad:,} of the {math.prod(self.files.shape(name)):,} "
                    f"values of {name} are NaN or infinite, so that no loss would be finite; name another model"
                )


def _open(directory: Path) -> TensorFiles:
    """Read the headers of the files of weights."""
    return TensorFiles(weight_files(directory))


def _named(function: Callable[..., T], *args: Any) -> T:
    """Call a function, and put the key before the message of its UserError."""
    try:
        return function(*args)
    except UserError as error:
        raise UserError(f"model.init_from: {error}") from error
