"""AdamW with weight decay on matrices only."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gpt2dist.config.schema import OptimizerSection


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: tensors of two dimensions or more are decayed, biases and norms are not.

    The tied embedding is one parameter and appears once.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


class SkipStepAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019) that leaves an update out where a tensor on the device says so.

    Weights, moments and the count of updates stay as they are then, by the means that torch has for gradient
    scalers: the fused kernel reads `found_inf` itself, so that nobody waits for its value.
    """

    should_skip: Callable[[], Tensor] | None = None
    """Returns an fp32 scalar beside the parameters, 1 to leave the update out. Called by each `step`."""

    def step(self, closure: Any = None) -> Any:
        """Updates the parameters, or not."""
        self.found_inf = self.should_skip() if self.should_skip else None
        return super().step(closure)


def build_optimizer(model: nn.Module, section: OptimizerSection) -> SkipStepAdamW:
    """Builds the optimizer.

    torch's own fused AdamW rather than DeepSpeed's, which compiles an extension at the first start.
    """
    groups = parameter_groups(model, section.weight_decay)
    return SkipStepAdamW(groups, lr=section.lr, betas=section.betas, eps=section.eps, fused=True)
