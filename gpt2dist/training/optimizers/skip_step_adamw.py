"""torch's AdamW with skipped steps, and parameter groups with weight decay on matrices only."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: tensors of two or more dimensions with weight decay, biases and norms without."""
    every = list(parameters)
    return [
        {"params": [p for p in every if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in every if p.dim() < 2], "weight_decay": 0.0},
    ]


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
            return inspect.unwrap(torch.optim.AdamW.step)(self, closure)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters."""
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop or clear the gradients."""
        inspect.unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)
