"""Restore the weights and the optimizer state of a run from a checkpoint."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from gpt2dist.checkpoint.safetensors_io import TensorFiles
from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.checkpoint.whole_state import WholeState, saved_shape
from gpt2dist.errors import UserError

_SAME_MODEL = "use the model section of the run that wrote it"


def restore(path: Path, state: WholeState, vocab_size: int, other_optimizer: bool = False) -> TrainerState:
    """Restore the whole state from a valid checkpoint. Collective.

    Args:
        path: The checkpoint.
        state: The state to set.
        vocab_size: Rows of the saved embedding; the rows after them are padding.
        other_optimizer: Whether to accept the state of another optimizer. A group of parameters whose state
            the checkpoint lacks, or counts from different updates, then starts from zero.

    Returns:
        The trainer state, in which `restarted` has the parameters that start from zero.

    Raises:
        UserError: The checkpoint has other tensors than the model and its optimizer, or other shapes.
    """
    trainer = TrainerState.read(path)
    weights = TensorFiles(sorted(path.glob("model-*.safetensors")))
    optimizer = TensorFiles(sorted(path.glob("optimizer-*.safetensors")))
    unknown = sorted(set(weights) - set(state.parameters))
    if unknown:
        raise UserError(f"{path}: has a tensor {unknown[0]}, which the model does not have; {_SAME_MODEL}")
    weights.require(state.parameters)
    fresh: set[str] = set()
    if other_optimizer:
        fresh = set(_without_state(set(optimizer), trainer.restarted, state))
        restarted = {name: at for name, at in trainer.restarted.items() if name not in fresh}
        restarted |= dict.fromkeys(sorted(fresh), trainer.updates)
        trainer = dataclasses.replace(trainer, restarted=restarted)
    else:
        _require_same_state(path, set(optimizer), state)
    state.materialise(trainer.updates, trainer.restarted)
    for name in state.parameters:
        whole = weights.read(name)
        tensors = {"param": whole}
        for key in state.state_names(name):
            tensors[key] = torch.zeros_like(whole) if name in fresh else optimizer.read(f"{key}.{name}")
        state.scatter(
            name, {key: _padded(path, name, value, state, vocab_size) for key, value in tensors.items()}
        )
    state.refresh()
    return trainer


def _padded(path: Path, name: str, tensor: Tensor, state: WholeState, vocab_size: int) -> Tensor:
    """Check a loaded tensor's shape, and append the embedding's padding: zero rows, which are not saved."""
    shape = state.shape_of(name)
    expected = saved_shape(name, shape, vocab_size)
    if tensor.shape != expected:
        raise UserError(
            f"{path}: {name} has the shape {list(tensor.shape)}, but {list(expected)} in the model; {_SAME_MODEL}"
        )
    if shape == expected:
        return tensor
    out = torch.zeros(shape, dtype=tensor.dtype)
    out[: len(tensor)] = tensor
    return out


def _without_state(saved: set[str], restarted: Mapping[str, int], state: WholeState) -> Iterator[str]:
    """Yield the parameters of the groups that cannot use the saved state of an optimizer.

    A group has one count of updates, from which AdamW corrects its moments. So all of its parameters keep their
    state, or none does.

    Args:
        saved: Names of the saved tensors.
        restarted: `TrainerState.restarted` of the checkpoint.
        state: State of the optimizer of this run.
    """
    for group in state.groups:
        needed = {f"{key}.{name}" for name in group for key in state.state_names(name)}
        if not needed <= saved or len({restarted.get(name, 0) for name in group}) > 1:
            yield from group


def _require_same_state(path: Path, saved: set[str], state: WholeState) -> None:
    """Check that a checkpoint has the state tensors of the run's optimizer for each parameter, and no others.

    Raises:
        UserError: A tensor is missing, or does not belong to the optimizer.
    """
    needed = {f"{key}.{name}" for name in state.parameters for key in state.state_names(name)}
    for name, what in ((min(needed - saved, default=""), "lacks"), (min(saved - needed, default=""), "has")):
        if name:
            raise UserError(
                f"{path}: {what} {name}, unlike the optimizer of this run; set the section optimizer back to "
                "that of the run that wrote it, continue this run with 'checkpoint.accept_changes=[optimizer]', "
                f"or start a new run from its weights with model.init_from={path} in another run.output_dir"
            )
