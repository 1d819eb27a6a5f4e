"""The optimizers that `optimizer.kind` names, and their construction. Does not import torch.

base.py has the protocol. A module such as adamw.py describes an optimizer without torch; its `build` imports the
module that needs torch.
"""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from gpt2dist.config import Config
from gpt2dist.errors import UserError
from gpt2dist.registry import Registry
from gpt2dist.training.optimizers.base import OptimizerKind, SkipStepOptimizer

if TYPE_CHECKING:
    from torch import nn

OPTIMIZERS: Registry[type[OptimizerKind]] = Registry(
    "optimizer",
    "gpt2dist.optimizers",
    {
        "adamw": "gpt2dist.training.optimizers.adamw:AdamW",
        "muon": "gpt2dist.training.optimizers.muon:Muon",
    },
    OptimizerKind,
)


def optimizer_kind(config: Config) -> OptimizerKind:
    """Return the optimizer that the section `optimizer` describes.

    Raises:
        ValueError: `optimizer.kind` or an option is wrong, or the optimizer refuses the configuration. The
            preflight reports it with its key.
    """
    found = OPTIMIZERS.get(config.optimizer.kind)
    options = found.Options.model_validate_json(json.dumps(config.optimizer.options))
    return cast(Any, found)(config, options)


def build_optimizer(config: Config, parameters: "Iterable[tuple[str, nn.Parameter]]") -> SkipStepOptimizer:
    """Build the optimizer, and check that training can use what an optimizer from another package returns.

    Args:
        config: The run's configuration.
        parameters: Parameters of the model by name.

    Raises:
        UserError: The optimizer does not have each parameter in exactly one group, the parameters of a group have
            different state tensors, or one of these has a reserved name.
    """
    kind, named = optimizer_kind(config), dict(parameters)
    optimizer = kind.build(named.items())
    states = {id(each): kind.state_names(name, tuple(each.shape)) for name, each in named.items()}
    groups = [[id(each) for each in group["params"]] for group in optimizer.param_groups]
    fault = _fault(groups, states)
    if fault:
        raise UserError(f"optimizer.kind: {config.optimizer.kind} {fault}")
    return optimizer


def _fault(groups: list[list[int]], states: dict[int, tuple[str, ...]]) -> str:
    """Return the fault of parameter groups, given the state names of each parameter; empty if they are right."""
    if sorted(place for group in groups for place in group) != sorted(states):
        return "does not put each parameter of the model into exactly one group; correct its build()"
    reserved = {"param", "step"} & {key for names in states.values() for key in names}
    if reserved:
        return f"has a state tensor named {min(reserved)}, which is reserved; rename it in its state_names()"
    for number, group in enumerate(groups):
        if len({states[place] for place in group}) > 1:
            return (
                f"has parameters with different state tensors in parameter group {number}; correct its build() "
                "or state_names()"
            )
    return ""
