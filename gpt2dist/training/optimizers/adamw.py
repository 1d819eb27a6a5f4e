"""Describe AdamW to the configuration, the preflight and checkpoints. Does not import torch."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, get_args

from gpt2dist.config import Config
from gpt2dist.config.schema import Decay, Precision, Section
from gpt2dist.training.optimizers.base import SkipStepOptimizer, Supported
from gpt2dist.training.optimizers.weight_decay import decay_per_lr, describe_decay

if TYPE_CHECKING:
    from torch import nn


class AdamW:
    """AdamW (Loshchilov and Hutter 2019), with weight decay on matrices only. It has no options.

    Args:
        config: The run's configuration.
        options: Empty.
    """

    Options = Section

    def __init__(self, config: Config, options: Section):
        self.section = config.optimizer

    def supported(self) -> Supported:
        """Return all settings; the preflight refuses those in which DeepSpeed itself is wrong."""
        return Supported((0, 1, 2, 3), get_args(Precision), offload=True, decays=get_args(Decay), cautious=True)

    def state_names(self, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return the names of the two moments."""
        return "exp_avg", "exp_avg_sq"

    def build(self, parameters: "Iterable[tuple[str, nn.Parameter]]") -> SkipStepOptimizer:
        """Build torch's fused AdamW rather than DeepSpeed's, which compiles an extension at the first start."""
        from gpt2dist.training.optimizers.skip_step_adamw import SkipStepAdamW, decay_groups

        section = self.section
        decay = decay_per_lr(section, section.weight_decay, section.lr)
        groups = decay_groups((parameter for _, parameter in parameters), decay, section.cautious)
        return SkipStepAdamW(groups, lr=section.lr, betas=section.betas, eps=section.eps, fused=True)

    def describe(self) -> str:
        """Return the name with its hyperparameters."""
        (beta1, beta2), eps = self.section.betas, self.section.eps
        return f"AdamW, β {beta1} and {beta2}, ε {eps}, {describe_decay(self.section, self.section.weight_decay)}"
