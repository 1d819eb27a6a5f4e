"""How long a run is, and whether its schedule fits into that."""

import math
from collections.abc import Iterator

from gpt2dist.config import Config, Problem
from gpt2dist.plan import TrainingSet, targets_per_sample

TOTAL = ("schedule.total_steps", "schedule.total_tokens")


def total_steps(config: Config, datasets: tuple[TrainingSet, ...]) -> int:
    """Optimizer steps of the whole run."""
    schedule = config.schedule
    if schedule.total_tokens:
        per_step = targets_per_sample(datasets) * config.batch.global_batch_size
        return math.ceil(schedule.total_tokens / per_step)
    return schedule.total_steps or 0


def check_schedule(config: Config, datasets: tuple[TrainingSet, ...]) -> Iterator[Problem]:
    """What is wrong with the schedule.

    Args:
        config: The run.
        datasets: What is trained on; empty if something is wrong with it.
    """
    schedule = config.schedule
    if schedule.total_steps and schedule.total_tokens:
        yield Problem(TOTAL[0], f"{TOTAL[1]} is set too; keep one of the two", also=TOTAL)
    elif not schedule.total_steps and not schedule.total_tokens:
        yield Problem(TOTAL[0], f"missing; set it, or {TOTAL[1]}", also=TOTAL)
    elif schedule.total_steps or datasets:
        steps = total_steps(config, datasets)
        if schedule.warmup_steps >= steps:
            yield Problem(
                "schedule.warmup_steps",
                f"{schedule.warmup_steps} leaves nothing of the {steps} steps for after the warmup; "
                f"lower it, or raise {TOTAL[0] if schedule.total_steps else TOTAL[1]}",
                also=TOTAL if schedule.total_steps else (*TOTAL, "batch", "data", "model"),
            )
