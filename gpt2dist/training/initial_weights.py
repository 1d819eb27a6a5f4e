"""Load a new run's initial weights from the model that `model.init_from` names."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from gpt2dist import hub
from gpt2dist.checkpoint.manifest import require_whole_model
from gpt2dist.checkpoint.safetensors_io import TensorFiles
from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.model.find_model import fingerprint, locate, weight_files
from gpt2dist.model.huggingface import PREFIX, bare_name
from gpt2dist.training.zero_state import PartitionedState

RESIZABLE = ("transformer.wte.weight", "transformer.wpe.weight")


def load_initial_weights(name: str, world: World, state: PartitionedState) -> dict[str, str]:
    """Copy the weights of another model into a new one. Rows that the other lacks are unchanged. Collective.

    Args:
        name: Value of `model.init_from`: a directory or hub name. The preflight has checked the model's shape.
        world: This rank. Only rank 0 downloads and checks; all ranks read.
        state: The new model's weights and optimizer state.

    Returns:
        The `path` and `fingerprint` of the weights, and for a model on the hub its `source`, NAME@COMMIT.

    Raises:
        UserError: The weights cannot be read, are not finite, or are not those of a GPT-2 of this shape.
    """
    directory, digest = world.on_main(lambda: _checked(name))
    try:
        weights = _Weights(directory)
        for parameter in state.parameters:
            whole = state.gather(parameter)["param"].to("cpu", torch.float32, copy=True)
            weights.copy_into(parameter, whole)
            fresh = {key: torch.zeros_like(whole) for key in state.state_names(parameter)}
            state.scatter(parameter, {"param": whole} | fresh)
    except (OSError, SafetensorError) as error:
        raise UserError(f"model.init_from: the weights in {directory} cannot be read ({error})") from error
    state.refresh()
    source = hub.source_of(directory)
    return {"path": str(directory), "fingerprint": digest} | ({"source": source} if source else {})


class _Weights:
    """Tensors of a model directory, under the names of our parameters."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._files = TensorFiles(weight_files(directory))
        self._names = {PREFIX + bare_name(name): name for name in self._files}

    def copy_into(self, parameter: str, whole: Tensor) -> None:
        """Copy a tensor into a parameter; if it is resizable, copy the rows that both have."""
        theirs = self._files.read(self._names[parameter])
        if bad := int((~theirs.isfinite()).sum()):
            raise UserError(
                f"model.init_from: {self._directory}: {bad:,} of the {theirs.numel():,} values of "
                f"{self._names[parameter]} are NaN or infinite, so that no loss would be finite; name another "
                "model"
            )
        rows = min(len(theirs), len(whole)) if parameter in RESIZABLE else len(whole)
        whole[:rows] = theirs[:rows]


def _checked(name: str) -> tuple[Path, str]:
    """Return the directory of the weights and their fingerprint. Check the files against a manifest, if any."""
    try:
        directory = locate(name)
        require_whole_model(directory)
    except UserError as error:
        raise UserError(f"model.init_from: {error}") from error
    return directory, fingerprint(directory)
