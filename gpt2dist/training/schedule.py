"""The learning rate as a pure function of the optimizer step. DeepSpeed's own schedulers are not used."""

import math

from gpt2dist.config import ScheduleSection


def learning_rate(schedule: ScheduleSection, peak_lr: float, total_steps: int, step: int) -> float:
    """Learning rate of one optimizer step.

    Linear warmup reaches the peak at step W − 1 (no step is spent at a rate of zero); the decay reaches
    `min_lr_ratio` × peak at the last step T − 1 and stays there.

    Args:
        schedule: Kind, warmup W and least rate.
        peak_lr: Rate after the warmup.
        total_steps: Steps T of the whole run.
        step: Number of the step, from 0: optimizer steps done before it.
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return peak_lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup + 1) / max(1, total_steps - warmup))
    least = schedule.min_lr_ratio
    if schedule.kind == "cosine":
        return peak_lr * (least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress)))
    if schedule.kind == "linear":
        return peak_lr * (least + (1 - least) * (1 - progress))
    return peak_lr
