"""The protocol of optimizers. Does not import torch, so that `validate` is instant."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from gpt2dist.config.schema import Section

if TYPE_CHECKING:
    from torch import Tensor, nn

STATE_BYTES = 4
"""Bytes of an element of optimizer state: fp32."""


@dataclass(frozen=True)
class Supported:
    """Combinations of settings that an optimizer supports. The preflight refuses all others.

    Attributes:
        stages: Values of `zero.stage`.
        precisions: Values of `precision`.
        offload: Whether `zero.offload_optimizer` and `zero.offload_parameters` may be cpu, so that the optimizer
            may run on the CPU.
        decays: Values of `optimizer.decay`.
        cautious: Whether `optimizer.cautious` may be true.
    """

    stages: tuple[int, ...]
    precisions: tuple[str, ...]
    offload: bool
    decays: tuple[str, ...] = ("coupled",)
    cautious: bool = False


@dataclass(frozen=True)
class Fragment:
    """A contiguous part of a parameter that a rank's optimizer updates.

    Attributes:
        rank: The rank.
        parameter: Place of the parameter in its group, as `OptimizerKind.build` returned it.
        start: Place of the first element in the flattened parameter.
        stop: Place after the last one.
        tensor: Place in the group's `params`, once training has begun, of the tensor with these elements.
        offset: Place of the first element in that tensor, flattened.
    """

    rank: int
    parameter: int
    start: int
    stop: int
    tensor: int
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


class SkipStepOptimizer(Protocol):
    """Protocol of a built optimizer: a `torch.optim.Optimizer` that can skip a step.

    DeepSpeed replaces the parameters of a group by fp32 vectors. At stages 1 and 2 it is one vector: this rank's
    part of the concatenated parameters. At stage 3 there may be several vectors, and `step` is called for each
    in turn. A rank without a part of the group does not call it.

    Attributes:
        param_groups: Groups of parameters. All parameters of a group have the same state tensors. Before each
            step, `lr` of a group is set to the scheduled rate × the group's `lr_ratio`, which is 1 by default. It
            is logged as train/lr_NAME if the group has an `lr_name`.
        state: For each parameter, its state tensors by name. Training creates them before the first step: zeros,
            fp32, of the parameter's shape. It also sets `step`, an fp32 scalar: the number of updates so far. An
            optimizer that uses `step` increments it in each update.
        should_skip: Returns an fp32 scalar on the parameters' device: 1 to skip this step, else 0. None never
            skips. Training sets it. Comparing the scalar in Python is correct, but makes the host wait for the
            device; torch's fused optimizers take it as `found_inf` instead.
    """

    param_groups: list[dict[str, Any]]
    state: Any
    should_skip: "Callable[[], Tensor] | None"

    def step(self) -> Any:
        """Update the parameters. A skipped step changes no parameter and no state, `step` included."""


@runtime_checkable
class FragmentedOptimizer(Protocol):
    """Protocol of a built optimizer whose update needs whole parameters, at stages 0 to 2.

    At stage 0, all ranks hold all parameters and may share the work.
    """

    def set_fragments(self, groups: Sequence[Sequence[Fragment]], rank: int, world_size: int) -> None:
        """Say who holds what. Called once, before the first step, with the same groups on all ranks.

        Args:
            groups: For each of `param_groups`, the fragments of all ranks.
            rank: This rank.
            world_size: Number of ranks.
        """


class OptimizerKind(Protocol):
    """Protocol of an optimizer that `optimizer.kind` names: a class, created from the configuration.

    The preflight imports its module and creates it, also on machines without a GPU. Import torch in `build`
    rather than at the top of the module, so that `validate` remains instant.

    Its constructor takes the run's configuration and an instance of `Options`. It raises a ValueError with a fix
    for settings that contradict each other, which the preflight reports.
    """

    Options: type[Section] = Section
    """Schema of `optimizer.options`. The preflight reports unknown keys and wrong values with their keys."""

    def supported(self) -> Supported:
        """Return the settings with which a test has compared this optimizer with plain PyTorch."""

    def state_names(self, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return the names of the state tensors of a parameter.

        Each is fp32, has the parameter's shape, and is initialised with zeros. Checkpoints store them under these
        names, and the estimates of memory and disk count them. The names `param` and `step` are reserved.

        Args:
            name: Hugging Face name of the parameter, such as "transformer.h.0.attn.c_attn.weight".
            shape: Its whole shape.
        """

    def build(self, parameters: "Iterable[tuple[str, nn.Parameter]]") -> SkipStepOptimizer:
        """Build the optimizer.

        Args:
            parameters: Parameters of the model by their Hugging Face names. Put each into exactly one group.
        """

    def describe(self) -> str:
        """Return a description for the model card, such as "SGD, momentum 0.9, weight decay 0.1"."""


def state_bytes(kind: OptimizerKind, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the bytes of optimizer state of a model.

    Args:
        kind: The optimizer.
        shapes: Name → shape of each parameter.
    """
    tensors = ((len(kind.state_names(name, shape)), shape) for name, shape in shapes.items())
    return STATE_BYTES * sum(count * math.prod(shape) for count, shape in tensors)
