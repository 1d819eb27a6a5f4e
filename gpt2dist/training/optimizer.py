"""AdamW with weight decay on matrices only."""

import torch
from torch import nn

from gpt2dist.config import OptimizerSection


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: tensors of two dimensions or more are decayed, biases and norms are not.

    The tied embedding is one parameter and appears once.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, section: OptimizerSection) -> torch.optim.AdamW:
    """Builds the optimizer (Loshchilov and Hutter 2019).

    torch's own AdamW rather than DeepSpeed's, which compiles an extension at the first start.
    """
    groups = parameter_groups(model, section.weight_decay)
    return torch.optim.AdamW(groups, lr=section.lr, betas=section.betas, eps=section.eps)
