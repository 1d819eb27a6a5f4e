"""Compute the length of a run and its warmup, and check that the schedule fits."""

from collections.abc import Iterator

from gpt2dist.config import Config, Problem
from gpt2dist.plan import TrainingSet, steps_to
from gpt2dist.preflight.batch import batch_sizes
from gpt2dist.training.lr_schedule import decay_steps

TOTAL = ("schedule.total_steps", "schedule.total_tokens")
WARMUP = ("schedule.warmup_steps", "schedule.warmup_tokens")


def total_steps(config: Config, datasets: tuple[TrainingSet, ...]) -> int:
    """Return the number of optimizer steps of the whole run."""
    tokens = config.schedule.total_tokens
    return steps_to(tokens, batch_sizes(config), datasets) if tokens else config.schedule.total_steps or 0


def warmup_steps(config: Config, datasets: tuple[TrainingSet, ...]) -> int:
    """Return the number of optimizer steps in which the learning rate rises."""
    tokens = config.schedule.warmup_tokens
    return steps_to(tokens, batch_sizes(config), datasets) if tokens else config.schedule.warmup_steps


def check_schedule(config: Config, datasets: tuple[TrainingSet, ...]) -> Iterator[Problem]:
    """Check the schedule.

    Args:
        config: The run's configuration.
        datasets: Its training sets; empty if they have problems.
    """
    schedule = config.schedule
    for steps, tokens in (TOTAL, WARMUP):
        if _given(config, steps) and _given(config, tokens):
            yield Problem(steps, f"{tokens} is set as well; keep one of the two", also=(steps, tokens))
    if not any(_given(config, key) for key in TOTAL):
        yield Problem(TOTAL[0], f"missing; set it, or {TOTAL[1]}", also=TOTAL)
    if schedule.kind == "inverse_sqrt" and not any(_given(config, key) for key in WARMUP):
        yield Problem(
            WARMUP[0],
            f"missing; inverse_sqrt needs a warmup, since it falls as √(warmup / step); set it, or {WARMUP[1]}",
            also=("schedule.kind", *WARMUP),
        )
    for name in ("decay_fraction", "decay_shape"):
        if schedule.kind != "wsd" and getattr(schedule, name) is not None:
            yield Problem(
                f"schedule.{name}",
                f"schedule.kind {schedule.kind} does not use it; remove it, or set schedule.kind to wsd",
                also=("schedule.kind",),
            )
    yield from _check_lengths(config, datasets)


def _check_lengths(config: Config, datasets: tuple[TrainingSet, ...]) -> Iterator[Problem]:
    """Check that warmup and decay fit into the run."""
    totals, warmups = ([key for key in keys if _given(config, key)] for keys in (TOTAL, WARMUP))
    if len(totals) != 1 or len(warmups) != 1:
        return  # the caller has reported a mistake, or there is no warmup
    (total,), (warmup,) = totals, warmups
    counted = {total, warmup} & {TOTAL[1], WARMUP[1]}
    if counted and not datasets:
        return
    steps, rising = total_steps(config, datasets), warmup_steps(config, datasets)
    given = rising if warmup == WARMUP[0] else f"{config.schedule.warmup_tokens} ({rising} steps)"
    also = (*TOTAL, *WARMUP, "schedule.kind", *(("batch", "data", "model") if counted else ()))
    if rising >= steps:
        yield Problem(
            warmup,
            f"a warmup of {given} leaves none of the {steps} steps after it; lower it, or raise {total}",
            also=also,
        )
    elif config.schedule.kind == "wsd" and rising + (falling := decay_steps(config.schedule, steps)) > steps:
        yield Problem(
            "schedule.decay_fraction",
            f"the decay of {falling} of {steps} steps begins before the warmup of {rising} ends; lower {warmup}, "
            f"or set it to at most {(steps - rising) * 1000 // steps / 1000:g}",
            also=also,
        )


def _given(config: Config, key: str) -> bool:
    return bool(getattr(config.schedule, key.removeprefix("schedule.")))
