"""Describe Muon to the configuration, the preflight and checkpoints. Does not import torch."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field

from gpt2dist.config import Config
from gpt2dist.config.schema import Decay, Fraction, Precision, Section
from gpt2dist.training.optimizers.base import SkipStepOptimizer, Supported
from gpt2dist.training.optimizers.weight_decay import decay_per_lr, describe_decay

if TYPE_CHECKING:
    from torch import nn

BLOCKS = "transformer.h."
"""Prefix of the names of the blocks' parameters."""
FUSED = ".attn.c_attn.weight"
"""Suffix of the weight that holds the projections to queries, keys and values, side by side."""


class MuonOptions(Section):
    """Hyperparameters of Muon. AdamW, which trains everything else, has those of the section `optimizer`."""

    lr: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate of Muon. Not set, it is `optimizer.lr`, which `scaling: match_rms_adamw` "
        "allows for. `scaling: original` needs its own.",
    )
    momentum: Fraction = Field(0.95, description="Decay rate of the average of gradients.")
    nesterov: bool = Field(
        True, description="Mix the gradient into the average before it is orthogonalized, as Nesterov's momentum."
    )
    weight_decay: float | None = Field(
        None, ge=0, description="Decoupled weight decay of Muon. Not set, it is `optimizer.weight_decay`."
    )
    ns_steps: int = Field(5, ge=1, le=99, description="Newton–Schulz iterations of an update.")
    ns_dtype: Literal["fp32", "bf16"] | None = Field(
        None,
        description="Data type of the Newton–Schulz iterations. Not set, it is fp32 with `precision: fp32` and "
        "bf16 otherwise.",
    )
    scaling: Literal["match_rms_adamw", "original"] = Field(
        "match_rms_adamw",
        description="Factor of the update of an m × n matrix. `match_rms_adamw` is 0.2 √max(m, n), which gives "
        "it the size of AdamW's updates. `original` is √max(1, outputs / inputs).",
    )
    split_qkv: bool = Field(
        True,
        description="Orthogonalize the projections to queries, keys and values as three matrices, although GPT-2 "
        "stores them as one.",
    )


class Muon:
    """Muon (Jordan et al. 2024) on the matrices of the blocks, AdamW on embeddings, norms and biases.

    Args:
        config: The run's configuration.
        options: Hyperparameters of Muon.

    Raises:
        ValueError: The scaling needs a learning rate.
    """

    Options = MuonOptions

    def __init__(self, config: Config, options: MuonOptions):
        if options.scaling == "original" and options.lr is None:
            raise ValueError(
                "options.scaling: original does not suit the learning rate of AdamW; set options.lr, for example "
                "to 0.02, or options.scaling to match_rms_adamw"
            )
        self.section = config.optimizer
        self.options = options
        self.lr = options.lr or self.section.lr
        self.weight_decay = self.section.weight_decay if options.weight_decay is None else options.weight_decay
        self.ns_dtype = options.ns_dtype or ("fp32" if config.precision == "fp32" else "bf16")

    def supported(self) -> Supported:
        """Return ZeRO stages 0 to 2, at which a rank can assemble whole matrices."""
        return Supported((0, 1, 2), get_args(Precision), offload=False, decays=get_args(Decay), cautious=True)

    def state_names(self, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return the average of gradients for the matrices of the blocks, and AdamW's two moments for others."""
        return ("momentum_buffer",) if _is_matrix_of_block(name, shape) else ("exp_avg", "exp_avg_sq")

    def build(self, parameters: "Iterable[tuple[str, nn.Parameter]]") -> SkipStepOptimizer:
        """Build the optimizer: one parameter group for Muon, and those of AdamW."""
        from gpt2dist.training.optimizers.skip_step_adamw import decay_groups
        from gpt2dist.training.optimizers.skip_step_muon import SkipStepMuon

        named, section = dict(parameters), self.section
        ours = {name: each for name, each in named.items() if _is_matrix_of_block(name, tuple(each.shape))}
        others = [each for name, each in named.items() if name not in ours]
        decay = decay_per_lr(section, section.weight_decay, section.lr)
        groups = [self._group(ours), *decay_groups(others, decay, section.cautious)]
        return SkipStepMuon(groups, lr=section.lr, betas=section.betas, eps=section.eps, fused=True)

    def _group(self, matrices: "dict[str, nn.Parameter]") -> dict[str, Any]:
        """Return the parameter group of Muon."""
        from gpt2dist.training.optimizers.skip_step_muon import Matrix

        def matrix(name: str) -> Matrix:
            inputs, outputs = matrices[name].shape
            return Matrix(inputs, outputs, parts=3 if self.options.split_qkv and name.endswith(FUSED) else 1)

        return {
            "params": list(matrices.values()),
            "matrices": tuple(matrix(name) for name in matrices),
            "lr_name": "muon",
            "lr_ratio": self.lr / self.section.lr,
            "weight_decay": decay_per_lr(self.section, self.weight_decay, self.lr),
            "cautious": self.section.cautious,
            "momentum": self.options.momentum,
            "nesterov": self.options.nesterov,
            "ns_steps": self.options.ns_steps,
            "ns_dtype": self.ns_dtype,
            "scaling": self.options.scaling,
        }

    def describe(self) -> str:
        """Return the name with the hyperparameters of Muon and AdamW."""
        options, (beta1, beta2) = self.options, self.section.betas
        decay, of_adamw = (
            describe_decay(self.section, value) for value in (self.weight_decay, self.section.weight_decay)
        )
        return (
            f"Muon on the matrices of the blocks: learning rate {self.lr}, momentum {options.momentum}"
            f"{' (Nesterov)' if options.nesterov else ''}, {decay}, {options.ns_steps} "
            f"Newton–Schulz steps in {self.ns_dtype}, scaling {options.scaling}"
            f"{', q, k and v apart' if options.split_qkv else ''}; AdamW elsewhere: β {beta1} and {beta2}, "
            f"ε {self.section.eps}, {of_adamw}"
        )


def _is_matrix_of_block(name: str, shape: tuple[int, ...]) -> bool:
    return name.startswith(BLOCKS) and len(shape) == 2
