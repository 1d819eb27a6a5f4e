"""Check the monitoring section: samples, the profile and trackers."""

from collections.abc import Iterator

from gpt2dist.config import Config, Problem
from gpt2dist.monitoring.trackers import load
from gpt2dist.plan import TrainingSet
from gpt2dist.preflight.schedule import total_steps


def check_samples(config: Config) -> Iterator[Problem]:
    """Check the settings of samples."""
    samples = config.monitoring.samples
    if bool(samples.prompts) != bool(samples.every_steps):
        keys = ("monitoring.samples.every_steps", "monitoring.samples.prompts")
        missing = keys[0] if samples.prompts else keys[1]
        yield Problem(missing, "missing; samples need both prompts and every_steps", also=keys)
    if 0 < samples.temperature < 0.01:  # dividing the logits by it could overflow
        yield Problem("monitoring.samples.temperature", "set it to 0 (greedy) or to 0.01 or more")


def check_profile(config: Config, datasets: tuple[TrainingSet, ...]) -> Iterator[Problem]:
    """Check that the steps to trace are within the run.

    Args:
        config: The run's configuration.
        datasets: Its training sets; empty if they have problems.
    """
    profile, schedule = config.monitoring.profile, config.schedule
    if not profile or not (schedule.total_steps or (schedule.total_tokens and datasets)):
        return
    last, steps = profile.start + profile.steps - 1, total_steps(config, datasets)
    if last > steps:
        yield Problem(
            "monitoring.profile",
            f"traces the steps {profile.start} to {last} of a run of {steps}; lower start or steps",
            also=("schedule", "batch", "data"),
        )


def check_trackers(config: Config) -> Iterator[Problem]:
    """Check that the trackers can be imported."""
    for name in config.monitoring.trackers:
        try:
            load(name)
        except ValueError as error:
            yield Problem("monitoring.trackers", str(error))
