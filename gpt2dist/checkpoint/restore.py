"""Restore the weights and the optimizer state of a run from a checkpoint."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.checkpoint.tensor_files import RangeReaders, TensorFiles, zeros
from gpt2dist.checkpoint.whole_state import WholeState, saved_shape
from gpt2dist.distributed.hosts import first_fault, on_each_host
from gpt2dist.distributed.world import World
from gpt2dist.errors import RunError, UserError

_SAME_MODEL = "use the model section of the run that wrote it"


def restore(
    path: Path, state: WholeState, world: World, vocab_size: int, other_optimizer: bool = False
) -> TrainerState:
    """Restore the whole state from a valid checkpoint. Collective.

    One rank of each host reads the headers of the files. Each rank then reads only its own part of the tensors:
    all ranks together read each byte once.

    Args:
        path: The checkpoint.
        state: The state to set.
        world: This rank.
        vocab_size: Rows of the saved embedding; the rows after them are padding.
        other_optimizer: Whether to accept the state of another optimizer. A group of parameters whose state
            the checkpoint lacks, or counts from different updates, then starts from zero.

    Returns:
        The trainer state, in which `restarted` has the parameters that start from zero.

    Raises:
        UserError: The checkpoint has other tensors than the model and its optimizer, or other shapes. Nothing
            has been loaded.
        RunError: A file cannot be read.
    """
    trainer, weights, optimizer = on_each_host(world, partial(_open, path))
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
    readers = RangeReaders()
    parts = {}
    for name in state.parameters:
        shape = saved_shape(name, state.shape_of(name), vocab_size)
        stored = {"param": (weights, name)}
        if name not in fresh:
            stored |= {key: (optimizer, f"{key}.{name}") for key in state.state_names(name)}
        for files, stored_name in stored.values():
            _require_shape(path, name, files.shape(stored_name), shape)
        parts[name] = dict.fromkeys(state.state_names(name), zeros) | {
            key: readers.reader(files, stored_name, shape.numel(), zero_rest=True)  # padding is not saved
            for key, (files, stored_name) in stored.items()
        }
    state.materialise(trainer.updates, trainer.restarted)
    for name, each in parts.items():
        state.restore(name, each)
    weights.close()
    optimizer.close()
    if fault := first_fault(world, readers.fault):
        raise RunError(f"{path} cannot be read: {fault}; start the run again")
    state.refresh()
    return trainer


def _open(path: Path) -> tuple[TrainerState, TensorFiles, TensorFiles]:
    """Read the trainer state and the headers of the files of tensors."""
    trainer = TrainerState.read(path)
    weights, optimizer = (
        TensorFiles(sorted(path.glob(f"{kind}-*.safetensors"))) for kind in ("model", "optimizer")
    )
    return trainer, weights, optimizer


def _require_shape(path: Path, name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise UserError(
            f"{path}: {name} has the shape {list(shape)}, but {list(expected)} in the model; {_SAME_MODEL}"
        )


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
