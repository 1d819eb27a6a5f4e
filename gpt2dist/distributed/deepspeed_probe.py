"""List the attributes of DeepSpeed that gpt2dist uses, and check that the installed version has them.

Many of them are private, so any release may rename them. A test checks that the code uses only those in these
tables. Imports neither torch nor deepspeed.
"""

import logging
from collections.abc import Iterator
from typing import Any

from packaging.specifiers import SpecifierSet  # DeepSpeed and transformers require packaging
from packaging.version import Version

from gpt2dist.errors import UserError

logger = logging.getLogger(__name__)

TESTED = ">=0.19.8,<0.20"
"""Versions of DeepSpeed with which the tests pass. pyproject.toml and constraints-lowest.txt say the same."""
FIRST_CORRECT = "0.19.8"
"""Older versions report a finite norm for gradients that are not finite, so no such step could be skipped."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ENGINE = _names("""
    backward eval module optimizer set_gradient_accumulation_boundary step train was_step_applied
    zero_optimization
""")
"""Attributes of `DeepSpeedEngine`."""
_WITH_LINKED_STATE = _names("""
    _hp_optimizer_states_linked _lazy_init_hp_params_optimizer_state optimizer param_groups update_lp_params
""")
OPTIMIZERS = {
    "DeepSpeedZeroOptimizer": (
        *_WITH_LINKED_STATE,
        *_names("_global_grad_norm bit16_groups loss_scale loss_scaler single_partition_of_fp32_groups"),
    ),
    # Its first step adds `_global_grad_norm`, so that cannot be checked before.
    "BF16_Optimizer": (*_WITH_LINKED_STATE, "bf16_groups", "fp32_groups_flat_partition"),
    "DeepSpeedZeroOptimizer_Stage3": _names("""
        _global_grad_norm _partition_all_parameters _reassign_or_swap_out_partitioned_parameters
        checkpoint_event_epilogue fp16_groups fp32_partitioned_groups_flat loss_scale loss_scaler optimizer
        param_groups
    """),
}
"""Attributes of the optimizers at stages 1 and 2, at stage 1 in bf16, and at stage 3. Subclasses count."""
PARTITIONED_PARAMETER = _names("ds_id ds_process_group ds_shape")
"""Attributes that stage 3 adds to each parameter."""
MAPPED_PARAMETER = _names("_hp_mapping")
"""Attributes that stages 1 and 2 add to each parameter: None if this rank updates nothing of it."""
MAPPING = _names("get_hp_fragment hp_fragment_address lp_fragment_address")
"""Attributes of such a mapping: its addresses are a `FRAGMENT` each, the first returns the elements."""
FRAGMENT = _names("numel start")
"""Attributes of a place in the rank's flat vector, or in the parameter."""
LOSS_SCALER = _names("cur_scale cur_iter last_overflow_iter cur_hysteresis")
"""Attributes of a dynamic loss scaler, which are its state."""


def check_deepspeed(engine: Any, version: str) -> None:
    """Check that this DeepSpeed has all that gpt2dist uses, and warn if its version is not a tested one.

    Args:
        engine: Engine from `deepspeed.initialize`.
        version: DeepSpeed's version.

    Raises:
        UserError: Attributes are missing, all of which the message names, or this version is known to be wrong.
    """
    if missing := list(_missing(engine)):
        raise UserError(
            f"DeepSpeed {version} lacks {', '.join(missing)}, which gpt2dist uses; install a version with which "
            f"gpt2dist is tested: pip install 'deepspeed{TESTED}'"
        )
    if Version(version) < Version(FIRST_CORRECT):
        raise UserError(
            f"DeepSpeed {version} is silently wrong (it reports a finite norm for gradients that are not "
            f"finite); install a version with which gpt2dist is tested: pip install 'deepspeed{TESTED}'"
        )
    if not SpecifierSet(TESTED).contains(version, prereleases=True):
        logger.warning(
            "DeepSpeed %s: gpt2dist is tested with deepspeed%s only; check the first losses of this run, or "
            "install a tested version",
            version,
            TESTED,
        )


def _missing(engine: Any) -> Iterator[str]:
    """Yield all that this engine, its optimizer, loss scaler and parameters lack, as `Class.attribute`."""
    yield from _lacking(engine, ENGINE)
    if any(True for _ in _lacking(engine, ("optimizer", "zero_optimization"))) or not engine.zero_optimization():
        return  # at stage 0, the optimizer is torch's
    optimizer = engine.optimizer
    kind = next((each.__name__ for each in type(optimizer).__mro__ if each.__name__ in OPTIMIZERS), None)
    if kind is None:
        yield f"{' or '.join(OPTIMIZERS)} (unsupported DeepSpeed optimizer {type(optimizer).__name__})"
        return
    yield from _lacking(optimizer, OPTIMIZERS[kind])
    if scaler := getattr(optimizer, "loss_scaler", None):
        yield from _lacking(scaler, ("dynamic", *LOSS_SCALER) if getattr(scaler, "dynamic", True) else ())
    parameters = list(engine.module.parameters()) if hasattr(engine, "module") else []
    if kind == "DeepSpeedZeroOptimizer_Stage3":
        yield from _lacking(parameters[0], PARTITIONED_PARAMETER) if parameters else ()
    else:
        yield from _lacking_in_mapping(parameters)


def _lacking_in_mapping(parameters: list[Any]) -> Iterator[str]:
    """Yield what the parameters and their mappings to the flat vectors of stages 1 and 2 lack."""
    yield from _lacking(parameters[0], MAPPED_PARAMETER) if parameters else ()
    mapping = next((each for parameter in parameters if (each := getattr(parameter, "_hp_mapping", None))), None)
    if mapping is not None:
        yield from _lacking(mapping, MAPPING)
        yield from _lacking(
            getattr(mapping, "lp_fragment_address", None) or mapping.hp_fragment_address, FRAGMENT
        )


def _lacking(owner: Any, names: tuple[str, ...]) -> Iterator[str]:
    return (f"{type(owner).__name__}.{name}" for name in names if not hasattr(owner, name))
