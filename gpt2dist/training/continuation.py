"""How a run goes on after a change of its data, batch or schedule."""

import math

from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.config import Config
from gpt2dist.errors import UserError
from gpt2dist.loading.batch_ramp import BatchSizes, Origin, Ramp
from gpt2dist.plan import Plan, steps_to
from gpt2dist.training.lr_schedule import learning_rate

JUMP = 2.0
"""Factor between two learning rates from which a change is a warning."""


def plan_from(state: TrainerState, config: Config, plan: Plan, data: bool, batch: bool) -> Plan:
    """Return the plan of a run from a checkpoint on.

    Args:
        state: The checkpoint's trainer state.
        config: The run's configuration.
        plan: The plan of a run with this configuration from its start.
        data: Whether the data has changed since the checkpoint, so that it starts at its first sample.
        batch: Whether the batch sizes have changed. The samples before the checkpoint were drawn with the others.

    Raises:
        UserError: The run is to end before the step of the checkpoint.
    """
    origin = Origin(**state.origin)
    if data or batch:
        begin = state.consumed_samples if data else origin.data_from
        origin = Origin(state.step, state.consumed_samples, state.consumed_tokens, begin)
    if origin != Origin():
        plan = plan.continued(origin, plan.total_steps)
        if config.schedule.total_tokens:
            total_steps = steps_to(config.schedule.total_tokens, plan.batch_sizes, plan.datasets)
            plan = plan.continued(origin, total_steps)
    _require_later_end(state, config, plan)
    return plan


def earlier_sizes(state: TrainerState) -> BatchSizes:
    """Return the batch sizes with which a checkpoint was trained.

    Raises:
        ValueError: Those of the checkpoint are impossible.
        TypeError: The same.
    """
    ramp = state.order.get("batch.ramp")
    full = state.order["batch.global_batch_size"]
    return BatchSizes(full, Ramp(**ramp) if ramp else None, Origin(**state.origin))


def rate_note(state: TrainerState, config: Config, plan: Plan) -> tuple[str, bool]:
    """Describe how the learning rate continues if the schedule or the rate was changed since the checkpoint.

    Returns:
        The text, empty if nothing has changed or no step is left, and whether the rate jumps up.
    """

    def rate(step: int) -> float:
        return learning_rate(config.schedule, config.optimizer.lr, plan.warmup_steps, plan.total_steps, step)

    step, last = state.step, plan.total_steps - 1
    if not 0 < step <= last or math.isclose(rate(step - 1), state.lr, rel_tol=1e-9):
        return "", False
    now = rate(step)
    if math.isclose(now, state.lr, rel_tol=1e-6):  # both are the minimum, or the peak
        return "", False
    ratio = f" ({now / state.lr:.3g} times)" if state.lr else ""
    text = (
        f"the learning rate was {state.lr:.3g} at step {step:,} and is {now:.3g}{ratio} at step {step + 1:,}, by "
        f"the changed settings; at the last step, {last + 1:,}, it is {rate(last):.3g}"
    )
    return text, now > JUMP * state.lr


def _require_later_end(state: TrainerState, config: Config, plan: Plan) -> None:
    if plan.total_steps >= state.step:
        return
    tokens = config.schedule.total_tokens
    given = (
        f"total_tokens: {tokens:,} are {plan.total_steps:,} steps"
        if tokens
        else f"total_steps: {plan.total_steps:,}"
    )
    least = f"{state.consumed_tokens:,} or more" if tokens else f"{state.step:,} or more"
    raise UserError(
        f"schedule.{given}, but the run has done {state.step:,}; set it to {least}, or start a new run from the "
        "weights of one of its checkpoints, with model.init_from in another run.output_dir"
    )
