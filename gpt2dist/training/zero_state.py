"""Read and write whole fp32 parameters and Adam moments in DeepSpeed's partitions.

This module uses private attributes of DeepSpeed, which `distributed/deepspeed_probe.py` lists and checks.
Everything here is collective: all ranks must call it in the same order.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_get_local_fp32_param,
    safe_get_local_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from gpt2dist.checkpoint.state import MOMENTS
from gpt2dist.training.partition import cut_part, join_parts


class PartitionedState:
    """Optimizer state of a DeepSpeed engine, as whole tensors per parameter.

    Args:
        engine: Engine from `deepspeed.initialize`, with a torch AdamW inside.
        parameters: Parameters by name, in the same order on all ranks.
    """

    def __init__(self, engine: Any, parameters: Iterator[tuple[str, nn.Parameter]]):
        self.parameters = dict(parameters)
        self._zero: Any = engine.optimizer if engine.zero_optimization() else None
        self._adam: torch.optim.AdamW = self._zero.optimizer if self._zero else engine.optimizer

    def shape_of(self, name: str) -> torch.Size:
        """Return the whole shape of a parameter, which stage 3 replaces by an empty tensor."""
        parameter = self.parameters[name]
        return torch.Size(getattr(parameter, "ds_shape", parameter.shape))

    @property
    def updates(self) -> int:
        """Updates that AdamW has applied: its `step`, used to correct the bias of the moments."""
        state = self._adam.state.get(self._flat()[0], {})
        return int(state["step"]) if "step" in state else 0

    def gather(self, name: str) -> dict[str, Tensor]:
        """Return a parameter and its moments (`param`, `exp_avg`, `exp_avg_sq`), whole, fp32, on every rank."""
        parameter = self.parameters[name]
        if self._zero is None:
            state = self._adam.state[parameter]
            return {"param": parameter.detach(), **{key: state[key] for key in MOMENTS}}
        if _is_partitioned(parameter):
            local = {"param": safe_get_local_fp32_param(parameter)}
            local |= {key: safe_get_local_optimizer_state(parameter, key) for key in MOMENTS}
            return {key: self._join(name, part.detach()) for key, part in local.items()}
        out = {"param": safe_get_full_fp32_param(parameter)}
        for key in MOMENTS:
            out[key] = safe_get_full_optimizer_state(parameter, key)
        return {key: value.detach().view(self.shape_of(name)) for key, value in out.items()}

    def scatter(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Set a parameter and its moments from whole fp32 tensors. Call `refresh` after the last one."""
        parameter = self.parameters[name]
        if _is_partitioned(parameter):
            # DeepSpeed's safe_set_full_* do not pad: they fail if the world size does not divide the elements.
            local = {key: self._cut(name, value) for key, value in tensors.items()}
            safe_set_local_fp32_param(parameter, local["param"])
            for key in MOMENTS:
                safe_set_local_optimizer_state(parameter, local[key], key)
            return
        tensors = {key: value.to(parameter.device) for key, value in tensors.items()}
        if self._zero is None:
            parameter.data.copy_(tensors["param"])
            for key in MOMENTS:
                self._adam.state[parameter][key].copy_(tensors[key])
            return
        safe_set_full_fp32_param(parameter, tensors["param"])
        for key in MOMENTS:
            safe_set_full_optimizer_state(parameter, tensors[key], key)

    def materialise(self, updates: int) -> None:
        """Create missing moments, as AdamW would in its first step, and set its count of updates.

        A step with zero gradients would create them too, but would apply weight decay.
        """
        for flat in self._flat():
            state = self._adam.state[flat]
            for key in MOMENTS:
                state.setdefault(key, torch.zeros_like(flat.data))
            # One tensor each: AdamW increments it in place, so a shared one would count once per group.
            state["step"] = torch.tensor(float(updates), device=flat.device)
        self.link()

    def link(self) -> None:
        """Connect every parameter with its slice of the moments.

        DeepSpeed does this in its first step, but before the moments of all groups exist.
        """
        zero = self._zero
        if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    @torch.no_grad()
    def refresh(self) -> None:
        """Update the working copies of the weights from the fp32 ones that `scatter` set."""
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

    def _cut(self, name: str, whole: Tensor) -> Tensor:
        """Return this rank's part of a parameter's tensor at stage 3."""
        group = _process_group(self.parameters[name])
        return cut_part(whole, dist.get_rank(group), dist.get_world_size(group))

    def _join(self, name: str, part: Tensor) -> Tensor:
        """Return a parameter's whole tensor at stage 3, from the parts of all ranks."""
        group = _process_group(self.parameters[name])
        parts = part.new_empty(dist.get_world_size(group) * part.numel())
        dist.all_gather_into_tensor(parts, part, group=group)
        return join_parts(parts, self.shape_of(name))

    def _flat(self) -> list[Tensor]:
        """Return the tensors that are the keys of AdamW's state."""
        if self._zero is None:
            return list(self.parameters.values())
        for name in (
            "fp32_partitioned_groups_flat",  # stage 3
            "fp32_groups_flat_partition",  # stage 1 in bf16 with fp32 accumulation
            "single_partition_of_fp32_groups",  # stages 1 and 2
        ):
            if hasattr(self._zero, name):
                return list(getattr(self._zero, name))
        raise RuntimeError(f"unsupported DeepSpeed optimizer {type(self._zero).__name__}")


def _process_group(parameter: Any) -> dist.ProcessGroup:
    """Return the ranks that hold the parts of a parameter at stage 3."""
    return parameter.ds_process_group


def _is_partitioned(parameter: nn.Parameter) -> bool:
    """Return whether the ranks hold parts of the parameter itself, as at stage 3."""
    return hasattr(parameter, "ds_id")
