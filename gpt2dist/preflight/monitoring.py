"""Check what watches a run: samples, the profile, trackers, training hooks and `checkpoint.on_commit`."""

from collections.abc import Iterator
from typing import Any

from gpt2dist.config import Config, Problem
from gpt2dist.monitoring.trackers import TRACKERS
from gpt2dist.plan import TrainingSet
from gpt2dist.preflight.schedule import total_steps
from gpt2dist.registry import Registry
from gpt2dist.training.hooks import HOOKS
from gpt2dist.training.on_commit import find_function


def check_samples(config: Config) -> Iterator[Problem]:
    """Check the settings of samples."""
    samples = config.monitoring.samples
    if bool(samples.prompts) != bool(samples.every_steps):
        keys = ("monitoring.samples.every_steps", "monitoring.samples.prompts")
        missing = keys[0] if samples.prompts else keys[1]
        yield Problem(missing, "missing; samples need both prompts and every_steps", also=keys)
    if 0 < samples.temperature < 0.01:  # dividing the logits by it could overflow
        yield Problem("monitoring.samples.temperature", "too small; set it to 0 (greedy), or to 0.01 or more")


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
            f"traces steps {profile.start} to {last}, but the run has only {steps}; lower start or steps",
            also=("schedule", "batch", "data"),
        )


def check_trackers(config: Config) -> Iterator[Problem]:
    """Check that the trackers can be imported."""
    yield from _check_parts("monitoring.trackers", config.monitoring.trackers, TRACKERS)


def check_hooks(config: Config) -> Iterator[Problem]:
    """Check that the training hooks can be imported."""
    yield from _check_parts("run.hooks", config.run.hooks, HOOKS)


def check_on_commit(config: Config) -> Iterator[Problem]:
    """Check that the function can be imported, and called with a checkpoint and a step."""
    if config.checkpoint.on_commit:
        try:
            find_function(config.checkpoint.on_commit)
        except ValueError as error:
            yield Problem("checkpoint.on_commit", str(error))


def _check_parts(key: str, names: tuple[str, ...], registry: Registry[Any]) -> Iterator[Problem]:
    for name in names:
        try:
            registry.get(name)
        except ValueError as error:
            yield Problem(key, str(error))
