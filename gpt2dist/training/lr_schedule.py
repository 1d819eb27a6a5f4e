"""The learning rate as a pure function of the optimizer step. DeepSpeed's schedulers are not used."""

import math

from gpt2dist.config.schema import ScheduleSection

DECAY_FRACTION = 0.2
"""Default decay phase of `wsd`, as a fraction of all steps; Hägele et al. 2024 see little gain beyond it."""


def learning_rate(
    schedule: ScheduleSection, peak_lr: float, warmup_steps: int, total_steps: int, step: int
) -> float:
    """Return the learning rate of one optimizer step.

    The warmup factor is (s + 1)/W, so that no step has a rate of zero and step W − 1 reaches the peak. Decaying
    schedules reach `min_lr_ratio` × peak at the last step T − 1 and stay there; only `inverse_sqrt` has no end.

    cosine: Loshchilov and Hutter 2017 (SGDR), without restarts.
    linear: As in BERT (Devlin et al. 2019).
    constant: The peak until the end.
    wsd: Warmup, stable, decay (Hu et al. 2024, MiniCPM): the peak until the last `decay_fraction` of the steps,
        then a decay as 1 − √r ("sqrt") or 1 − r ("linear"), where r is the completed fraction of the decay
        (Hägele et al. 2024).
    inverse_sqrt: √W/√(s + 1) (Vaswani et al. 2017), not below `min_lr_ratio`.

    Args:
        schedule: Kind, minimum rate and shape of the decay.
        peak_lr: Rate after the warmup.
        warmup_steps: Steps W of the warmup.
        total_steps: Steps T of the whole run.
        step: 0-based number s of the step: optimizer steps done before it.
    """
    if step < warmup_steps:
        return peak_lr * (step + 1) / warmup_steps
    least = schedule.min_lr_ratio
    if schedule.kind == "inverse_sqrt":
        return peak_lr * max(least, math.sqrt(warmup_steps / (step + 1)))
    return peak_lr * (least + (1 - least) * _height(schedule, warmup_steps, total_steps, step))


def decay_steps(schedule: ScheduleSection, total_steps: int) -> int:
    """Return the number of steps at the end of a `wsd` run in which the rate decays."""
    return max(1, round((schedule.decay_fraction or DECAY_FRACTION) * total_steps))


def _height(schedule: ScheduleSection, warmup_steps: int, total_steps: int, step: int) -> float:
    """Return the rate of a step after the warmup, on a scale from the minimum (0) to the peak (1)."""
    if schedule.kind == "constant":
        return 1.0
    length = decay_steps(schedule, total_steps) if schedule.kind == "wsd" else total_steps - warmup_steps
    done = min(1.0, max(0.0, (step + 1 - (total_steps - length)) / max(1, length)))
    if schedule.kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule.kind == "wsd" and schedule.decay_shape != "linear":
        return 1 - math.sqrt(done)
    return 1 - done
