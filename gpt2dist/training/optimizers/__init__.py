"""The optimizers that `optimizer.kind` names, and their construction. Does not import torch.

base.py has the protocol. A module such as adamw.py describes an optimizer without torch; its `build` imports the
module that needs torch.
"""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from gpt2dist.config.schema import OptimizerSection
from gpt2dist.errors import UserError
from gpt2dist.registry import Registry
from gpt2dist.training.optimizers.base import OptimizerKind, SkipStepOptimizer

if TYPE_CHECKING:
    from torch import nn

OPTIMIZERS: Registry[type[OptimizerKind]] = Registry(
    "optimizer", "gpt2dist.optimizers", {"adamw": "gpt2dist.training.optimizers.adamw:AdamW"}, OptimizerKind
)


def optimizer_kind(section: OptimizerSection) -> OptimizerKind:
    """Return the optimizer that the section describes.

    Raises:
        ValueError: `kind` or `options` is wrong, or the optimizer refuses the section; the preflight explains it.
    """
    found = OPTIMIZERS.get(section.kind)
    options = found.Options.model_validate_json(json.dumps(section.options))
    return cast(Any, found)(section, options)


def build_optimizer(
    section: OptimizerSection, parameters: "Iterable[tuple[str, nn.Parameter]]"
) -> SkipStepOptimizer:
    """Build the optimizer, and check what an optimizer from elsewhere returns.

    Args:
        section: The section `optimizer`.
        parameters: Parameters of the model by name.

    Raises:
        UserError: The optimizer does not have each parameter in exactly one group, or the parameters of a group
            have different state tensors.
    """
    kind, named = optimizer_kind(section), dict(parameters)
    optimizer = kind.build(named.items())
    states = {id(each): kind.state_names(name, tuple(each.shape)) for name, each in named.items()}
    grouped = [[id(each) for each in group["params"]] for group in optimizer.param_groups]
    if sorted(place for group in grouped for place in group) != sorted(states):
        raise UserError(
            f"optimizer.kind: {section.kind} does not put each parameter of the model into exactly one group; "
            "correct its build()"
        )
    taken = {"param", "step"} & {key for names in states.values() for key in names}
    if taken:
        raise UserError(
            f"optimizer.kind: {section.kind} has a state tensor {min(taken)}, a name that checkpoints need; "
            "rename it in its state_names()"
        )
    for number, group in enumerate(grouped):
        if len({states[place] for place in group}) > 1:
            raise UserError(
                f"optimizer.kind: {section.kind} has parameters with different state tensors in parameter group "
                f"{number}; correct its build() or state_names()"
            )
    return optimizer
