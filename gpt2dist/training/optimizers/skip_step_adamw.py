"""torch's AdamW with skipped steps, and parameter groups with weight decay on matrices only."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 1 << 22
"""Elements that decay at a time: it bounds the memory for copies where a rank's part is one vector."""


def decay_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float, cautious: bool = False
) -> list[dict[str, Any]]:
    """Return two groups: tensors of two or more dimensions with weight decay, biases and norms without.

    Args:
        parameters: All parameters.
        weight_decay: Factor of the learning rate.
        cautious: Whether `SkipStepAdamW` lets only those elements decay that the update moves towards zero.
    """
    every = list(parameters)
    decay = (
        {"weight_decay": 0.0, "cautious_weight_decay": weight_decay}
        if cautious
        else {"weight_decay": weight_decay}
    )
    return [
        {"params": [p for p in every if p.dim() >= 2], **decay},
        {"params": [p for p in every if p.dim() < 2], "weight_decay": 0.0},
    ]


def cautious_decay(weights: Tensor, update: Tensor, fraction: float) -> Tensor:
    """Return what cautious weight decay subtracts (Chen et al. 2025, arXiv:2510.12402).

    Args:
        weights: Weights before the step.
        update: What the step subtracts from them, or a tensor with its signs.
        fraction: Learning rate × weight decay.
    """
    return torch.where(update * weights >= 0, weights * fraction, 0.0)


class SkipStepAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019) that skips an update if a scalar on the device is 1.

    A skipped update does not change weights, moments or the count of updates. It uses torch's interface for
    gradient scalers: the fused kernel reads `found_inf` itself, so that the host does not wait for its value.

    The methods below call torch's without their decorators, which guard them against torch.compile and import the
    compiler for it: half a second and 100 MiB on every rank. An optimizer is never compiled here.
    """

    should_skip: Callable[[], Tensor] | None = None
    """Returns an fp32 scalar on the parameters' device: 1 to skip the update. Called by each `step`."""

    def step(self, closure: Any = None) -> Any:
        """Update the parameters unless `should_skip` returns 1."""
        self.found_inf = self.should_skip() if self.should_skip else None
        with torch.no_grad():
            for group in self.param_groups:
                if group.get("cautious_weight_decay"):
                    self._decay(group)
            return inspect.unwrap(torch.optim.AdamW.step)(self, closure)

    def _decay(self, group: dict[str, Any]) -> None:
        """Apply cautious weight decay. The signs of AdamW's update are those of its new first moment."""
        fraction, (beta, _) = group["lr"] * group["cautious_weight_decay"], group["betas"]
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            old = self.state[parameter].get("exp_avg", torch.zeros_like(parameter.grad))
            for weights, average, grad in zip(
                *(each.reshape(-1).split(CHUNK) for each in (parameter.data, old, parameter.grad)), strict=True
            ):
                decay = cautious_decay(weights, average.lerp(grad, 1 - beta), fraction)
                weights.sub_(decay if self.found_inf is None else torch.where(self.found_inf > 0, 0.0, decay))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters."""
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop or clear the gradients."""
        inspect.unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)
