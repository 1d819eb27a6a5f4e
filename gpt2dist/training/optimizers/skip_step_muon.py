"""Muon with skipped steps, on weights that the ranks hold whole or in parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpt2dist.training.optimizers.base import Fragment
from gpt2dist.training.optimizers.matrix_exchange import MatrixExchange, make_plan
from gpt2dist.training.optimizers.newton_schulz import orthogonalize
from gpt2dist.training.optimizers.skip_step_adamw import SkipStepAdamW, cautious_decay

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Matrix:
    """A weight of GPT-2's Conv1D, [inputs, outputs], which may consist of several matrices side by side.

    Attributes:
        inputs: Number of rows.
        outputs: Number of columns.
        parts: Number of matrices, of outputs / parts columns each.
    """

    inputs: int
    outputs: int
    parts: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.inputs * self.outputs

    @property
    def cost(self) -> float:
        """Work of a Newton–Schulz iteration, in products per output."""
        short, long = sorted((self.inputs, self.outputs // self.parts))
        return float(self.parts * short * short * (2 * long + short))

    def split(self, flat: Tensor) -> Tensor:
        """Return the parts [parts, inputs, outputs / parts] of a flat weight."""
        return flat.view(self.inputs, self.parts, -1).transpose(0, 1)

    def join(self, parts: Tensor) -> Tensor:
        """Return the flat weight of its parts."""
        return parts.transpose(0, 1).reshape(-1)

    def scale(self, scaling: str) -> float:
        """Return the factor of the update, which torch.optim.Muon applies to the learning rate."""
        inputs, outputs = self.inputs, self.outputs // self.parts
        if scaling == "original":
            return max(1.0, outputs / inputs) ** 0.5
        return 0.2 * max(inputs, outputs) ** 0.5


class SkipStepMuon(SkipStepAdamW):
    """Muon for parameter groups with `matrices`, AdamW for the others; skips an update like `SkipStepAdamW`.

    The computation is that of torch.optim.Muon. Average and weights are updated by the ranks that hold them. Each
    matrix is assembled and orthogonalized by one rank, its owner, so that the ranks share this work.

    Such a group has `matrices`, the description of each of its parameters, and `momentum`, `nesterov`,
    `ns_steps`, `ns_dtype` and `scaling` as in `MuonOptions`, and `cautious` as in the section `optimizer`.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any):
        super().__init__(groups, **options)
        self._exchanges: dict[int, MatrixExchange] = {}
        self.set_fragments([_whole(group) for group in self.param_groups], 0, 1)

    def set_fragments(self, groups: Sequence[Sequence[Fragment]], rank: int, world_size: int) -> None:
        """Plan the work; see `FragmentedOptimizer`."""
        for group, fragments in zip(self.param_groups, groups, strict=True):
            if matrices := group.get("matrices"):
                sizes, costs = [each.size for each in matrices], [each.cost for each in matrices]
                plan = make_plan(sizes, costs, fragments, rank, world_size)
                device = group["params"][0].device
                self._exchanges[id(group)] = MatrixExchange(plan, DTYPES[group["ns_dtype"]], device)

    def step(self, closure: Any = None) -> Any:
        """Update the parameters unless `should_skip` returns 1. Collective."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if "matrices" not in group]
        try:
            result = super().step(closure)
        finally:
            self.param_groups = groups
        skip = None if self.found_inf is None else self.found_inf > 0
        for group in groups:
            if "matrices" in group:
                self._update(group, skip)
        return result

    @torch.no_grad()
    def _update(self, group: dict[str, Any], skip: Tensor | None) -> None:
        """Update the matrices of a group unless `skip`, a boolean scalar, is true."""
        exchange, matrices = self._exchanges[id(group)], group["matrices"]
        local = exchange.plan.local
        pieces = [self._average(group, each, skip).to(exchange.dtype) for each in local]
        owned = [matrices[number] for number in exchange.plan.owned]
        whole = [matrix.split(flat) for matrix, flat in zip(owned, exchange.gather(pieces), strict=True)]
        del pieces
        results = orthogonalize(whole, group["ns_steps"])
        updates = exchange.scatter([matrix.join(each) for matrix, each in zip(owned, results, strict=True)])
        for fragment, update in zip(local, updates, strict=True):
            weights = _elements(group["params"][fragment.tensor].data, fragment)
            factor = group["lr"] * matrices[fragment.parameter].scale(group["scaling"])
            fraction = group["lr"] * group["weight_decay"]
            if group["cautious"]:
                decayed = weights - cautious_decay(weights, update, fraction)
            else:
                decayed = weights * (1 - fraction)
            _set(weights, decayed.add_(update, alpha=-factor), skip)

    def _average(self, group: dict[str, Any], fragment: Fragment, skip: Tensor | None) -> Tensor:
        """Update the average of gradients of a fragment, and return what to orthogonalize, flat."""
        parameter, momentum = group["params"][fragment.tensor], group["momentum"]
        state = self.state[parameter]
        if "momentum_buffer" not in state:  # only without an engine
            state["momentum_buffer"] = torch.zeros_like(parameter.data)
        gradient, average = _elements(parameter.grad, fragment), _elements(state["momentum_buffer"], fragment)
        new = average.lerp(gradient, 1 - momentum)
        _set(average, new, skip)
        return gradient.lerp(new, momentum) if group["nesterov"] else new


def _whole(group: dict[str, Any]) -> list[Fragment]:
    """Return the fragments of a group whose parameters this process holds whole."""
    return [
        Fragment(0, number, 0, each.numel(), tensor=number, offset=0)
        for number, each in enumerate(group["params"])
    ]


def _elements(tensor: Tensor, fragment: Fragment) -> Tensor:
    """Return a fragment's elements of a tensor of its rank, a view if that is contiguous."""
    return tensor.reshape(-1)[fragment.offset : fragment.offset + fragment.size]


def _set(old: Tensor, new: Tensor, skip: Tensor | None) -> None:
    """Set a tensor unless `skip` is true. It is never multiplied with what may not be finite."""
    old.copy_(new if skip is None else torch.where(skip, old, new))
