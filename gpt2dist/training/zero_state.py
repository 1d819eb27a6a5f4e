"""Read and write fp32 parameters and optimizer state in DeepSpeed's partitions.

This module uses private attributes of DeepSpeed, which `distributed/deepspeed_probe.py` lists and checks.
Everything here is collective: all ranks must call it in the same order.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_local_fp32_param,
    safe_get_local_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from gpt2dist.checkpoint.whole_state import Holdings, Read
from gpt2dist.distributed.world import World
from gpt2dist.training.optimizers.base import Fragment
from gpt2dist.training.partition import cut_part, join_parts, part_range


class PartitionedState:
    """Weights and optimizer state of a DeepSpeed engine, of which each rank reads and writes its own part.

    Args:
        engine: Engine from `deepspeed.initialize`, with an optimizer from `build_optimizer` inside.
        parameters: Parameters by name, in the same order on all ranks.
        state_names: Returns the names of a parameter's state tensors from its name and whole shape; see
            `OptimizerKind.state_names`.
        groups: Names of the parameters in each group of the optimizer.
    """

    def __init__(
        self,
        engine: Any,
        parameters: Iterator[tuple[str, nn.Parameter]],
        state_names: Callable[[str, tuple[int, ...]], tuple[str, ...]],
        groups: Sequence[Sequence[str]] = (),
    ):
        self.parameters = dict(parameters)
        self.groups = groups
        self._zero: Any = engine.optimizer if engine.zero_optimization() else None
        self._optimizer: torch.optim.Optimizer = self._zero.optimizer if self._zero else engine.optimizer
        self._state_names = {name: state_names(name, tuple(self.shape_of(name))) for name in self.parameters}
        self._fragments: list[dict[str, tuple[int, int]]] = []  # of each rank, at stages 1 and 2
        self._updates: Tensor | float = 0.0  # a tensor on the device once training has started

    def shape_of(self, name: str) -> torch.Size:
        """Return the whole shape of a parameter, which stage 3 replaces by an empty tensor."""
        parameter = self.parameters[name]
        return torch.Size(getattr(parameter, "ds_shape", parameter.shape))

    def state_names(self, name: str) -> tuple[str, ...]:
        """Return the names of a parameter's state tensors."""
        return self._state_names[name]

    @property
    def updates(self) -> int:
        """The number of updates that the optimizer has applied. Reading it waits for the device."""
        return round(float(self._updates))

    def fragments(self, world: World) -> list[list[Fragment]]:
        """Return who holds what of each parameter group at stages 0 to 2, the same on all ranks. Collective."""
        if self._zero is None:
            groups = [group["params"] for group in self._optimizer.param_groups]
            return [
                [
                    Fragment(rank, place, 0, parameter.numel(), tensor=place, offset=0)
                    for rank in range(world.size)
                    for place, parameter in enumerate(group)
                ]
                for group in groups
            ]
        _, groups = _partitions(self._zero)
        ours = [
            [each for place, parameter in enumerate(group) if (each := _fragment(world.rank, place, parameter))]
            for group in groups
        ]
        return [list(itertools.chain(*parts)) for parts in zip(*world.gather(ours), strict=True)]

    def count_step(self, skipped: Tensor) -> None:
        """Count an optimizer step.

        Args:
            skipped: fp64 scalar on the device: 1 if the step was skipped, else 0.
        """
        self._updates = self._updates + (1 - skipped)

    def holdings(self, world: World) -> Holdings:
        """Return who holds which elements of each parameter and of its state. Collective."""
        if self._zero is None:
            return lambda name, rank: range(self.shape_of(name).numel())
        if all(map(_is_partitioned, self.parameters.values())):
            return lambda name, rank: part_range(self.shape_of(name).numel(), rank, world.size)
        if not self._fragments:  # DeepSpeed decided when it was initialised
            fragments = ((name, _fragment(world.rank, 0, each)) for name, each in self.parameters.items())
            self._fragments = world.gather({name: (each.start, each.stop) for name, each in fragments if each})
        return lambda name, rank: range(*self._fragments[rank].get(name, (0, 0)))

    def local(self, name: str, key: str) -> Tensor:
        """Return the elements of a parameter (`param`) or a state tensor that this rank holds, flat and fp32."""
        parameter: Any = self.parameters[name]
        if self._zero is None:
            whole = parameter if key == "param" else self._optimizer.state[parameter][key]
            return whole.detach().reshape(-1)
        if not _is_partitioned(parameter):
            return _mapping(parameter).get_hp_fragment(None if key == "param" else key).detach()
        if key == "param":
            return safe_get_local_fp32_param(parameter).detach()
        return safe_get_local_optimizer_state(parameter, key).detach()

    def restore(self, name: str, readers: Mapping[str, Read]) -> None:
        """Set this rank's part of a parameter and of its state. Call `refresh` after the last one.

        Each rank reads only the elements that it updates; at stage 0, where all ranks hold all, an equal share,
        which it then sends to the others.

        Args:
            name: Name of the parameter.
            readers: Functions that read elements, for `param` and each state tensor.
        """
        parameter = self.parameters[name]
        if self._zero is None:
            wholes = {"param": parameter.data} | self._optimizer.state[parameter]
            for key, read in readers.items():
                self._restore_whole(wholes[key], read)
        elif _is_partitioned(parameter):
            for key, read in readers.items():
                self._restore_part(name, key, read)
        elif (mapping := _mapping(parameter)) is not None:
            place = mapping.lp_fragment_address
            for key, read in readers.items():
                fragment = mapping.get_hp_fragment(None if key == "param" else key)
                found = read(place.start, place.start + place.numel)
                fragment.data[: len(found)].copy_(found)

    def _restore_whole(self, whole: Tensor, read: Read) -> None:
        """Set a tensor that every rank holds: each rank reads a part, and all exchange their parts."""
        rank, size = dist.get_rank(), dist.get_world_size()
        part = cut_part(whole, rank, size).clone()
        place = part_range(whole.numel(), rank, size)
        found = read(place.start, place.stop)
        part[: len(found)].copy_(found)
        if size == 1:
            whole.copy_(part.view(whole.shape))
            return
        parts = part.new_empty(size * len(part))
        dist.all_gather_into_tensor(parts, part)
        whole.copy_(join_parts(parts, whole.shape))

    def _restore_part(self, name: str, key: str, read: Read) -> None:
        """Set this rank's part of a tensor at stage 3. The padding of the last parts becomes zero."""
        parameter, part = self.parameters[name], self.local(name, key).clone()
        group = _process_group(parameter)
        place = part_range(self.shape_of(name).numel(), dist.get_rank(group), dist.get_world_size(group))
        found = read(place.start, place.stop)
        part[: len(found)].copy_(found)
        part[len(place) :] = 0
        if key == "param":
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_local_optimizer_state(parameter, part, key)

    def materialise(self, updates: int, restarted: Mapping[str, int] | None = None) -> None:
        """Create missing state tensors, as the optimizer would in its first step, and set the count of updates.

        A step with zero gradients would create them too, but would apply weight decay.

        Args:
            updates: Updates that the optimizer has applied.
            restarted: Name of each parameter whose state was started from zero later → the updates before that.
                It is the same for all parameters of a group.
        """
        self._updates = float(updates)
        for flat, parameter in self._flat():
            state = self._optimizer.state[flat]
            for key in self.state_names(parameter):
                state.setdefault(key, torch.zeros_like(flat.data))
            own = updates - (restarted or {}).get(parameter, 0)
            # One tensor each: AdamW increments it in place, so a shared one would count once per group.
            state["step"] = torch.tensor(float(own), device=flat.device)
        self.link()

    def link(self) -> None:
        """Connect every parameter with its slices of the state tensors.

        DeepSpeed does this in its first step, but before the state tensors of all groups exist.
        """
        zero = self._zero
        if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    @torch.no_grad()
    def refresh(self) -> None:
        """Update the working copies of the weights from the fp32 ones that `restore` set."""
        zero = self._zero
        if zero is None:
            return
        if hasattr(zero, "update_lp_params"):  # stages 1 and 2
            zero.update_lp_params()
            return
        for group in range(len(zero.fp32_partitioned_groups_flat)):
            zero._reassign_or_swap_out_partitioned_parameters(group)
        # As DeepSpeed does after a step: gather small parameters again, which stage 3 keeps whole.
        zero._partition_all_parameters()
        zero.checkpoint_event_epilogue()

    def _flat(self) -> Iterator[tuple[Tensor, str]]:
        """Yield the keys of the optimizer's state, which are tensors, and the name of a parameter in each."""
        if self._zero is None:
            for name, parameter in self.parameters.items():
                yield parameter, name
            return
        name_of = {id(parameter): name for name, parameter in self.parameters.items()}
        flats, groups = _partitions(self._zero)
        for flat, group in zip(flats, groups, strict=True):
            # `build_optimizer` has checked that all parameters of a group have the same state tensors.
            yield flat, name_of[id(group[0])]


def _partitions(zero: Any) -> tuple[list[Tensor], list[list[nn.Parameter]]]:
    """Return DeepSpeed's flat fp32 tensors, and the parameters of which each holds this rank's part."""
    for flats, groups in (
        ("fp32_partitioned_groups_flat", "fp16_groups"),  # stage 3
        ("fp32_groups_flat_partition", "bf16_groups"),  # stage 1 in bf16 with fp32 accumulation
        ("single_partition_of_fp32_groups", "bit16_groups"),  # stages 1 and 2
    ):
        if hasattr(zero, flats):
            return getattr(zero, flats), getattr(zero, groups)
    raise RuntimeError(f"unsupported DeepSpeed optimizer {type(zero).__name__}")


def _fragment(rank: int, place: int, parameter: Any) -> Fragment | None:
    """Return what this rank updates of a parameter at stages 1 and 2, as DeepSpeed has recorded it."""
    mapping = _mapping(parameter)
    if mapping is None:
        return None
    inside, within_flat = mapping.lp_fragment_address, mapping.hp_fragment_address
    stop = inside.start + inside.numel
    return Fragment(rank, place, inside.start, stop, tensor=0, offset=within_flat.start)


def _mapping(parameter: Any) -> Any:
    """Return where this rank's part of a parameter is at stages 1 and 2; None if it updates nothing of it."""
    return parameter._hp_mapping


def _process_group(parameter: Any) -> dist.ProcessGroup:
    """Return the ranks that hold the parts of a parameter at stage 3."""
    return parameter.ds_process_group


def _is_partitioned(parameter: nn.Parameter) -> bool:
    """Return whether the ranks hold parts of the parameter itself, as at stage 3."""
    return hasattr(parameter, "ds_id")
