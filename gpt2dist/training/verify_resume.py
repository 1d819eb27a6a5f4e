"""Verify that a resumed run equals an uninterrupted one: N + N steps against 2N."""

import gc
import shutil
from pathlib import Path

import torch

from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.naming import checkpoint_name
from gpt2dist.config import Config
from gpt2dist.distributed.world import World
from gpt2dist.errors import RunError, UserError
from gpt2dist.plan import Plan
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.metrics_file import read
from gpt2dist.training.setup import train
from gpt2dist.training.stop import described

COMPARED = ("train/loss", "train/grad_norm", "train/lr", "progress/tokens")


def verify_resume(config: Config, plan: Plan, world: World, steps: int) -> list[str]:
    """Train 2N steps without a stop, and N + N with one; compare the results. Collective.

    Args:
        config: The run's configuration. The two trainings get subdirectories of its output directory.
        plan: The run's plan.
        world: This rank.
        steps: Optimizer steps N of each half.

    Returns:
        One line per difference; the same on every rank. If there are none, the compared metrics and the
        safetensors files are identical, and both trainings are deleted.

    Raises:
        UserError: N is below 1, or the run has fewer than 2N steps.
        RunError: A signal stopped one of the trainings.
    """
    if not 1 <= steps <= plan.total_steps // 2:
        raise UserError(
            f"--steps {steps}: a half must have at least 1 step and at most half of the run's {plan.total_steps}"
        )
    home = RunDirectory(config.output_dir).verify_resume
    whole, halves = home / "whole", home / "halves"
    if world.is_main:
        for left in (whole, halves):
            shutil.rmtree(left, ignore_errors=True)
    for directory, stop in ((whole, 2 * steps), (halves, steps), (halves, 2 * steps)):
        if signal := train(_part(config, directory, stop), plan, world):
            raise RunError(f"stopped by {described(signal)} before the comparison; start it again")
        gc.collect()  # engines contain reference cycles
        if world.device.type == "cuda":
            torch.cuda.empty_cache()
    differences = world.on_main(lambda: _differences(whole, halves, 2 * steps))
    if world.is_main and not differences:
        shutil.rmtree(home, ignore_errors=True)
    return differences


def _part(config: Config, directory: Path, stop: int) -> Config:
    """Return the configuration of the run up to a step, in another directory and logged at every step."""
    run = config.run.model_copy(update={"output_dir": directory, "stop_after_steps": stop, "hooks": ()})
    quiet = {"log_every_steps": 1, "tensorboard": False, "trackers": (), "profile": None}
    monitoring = config.monitoring.model_copy(update=quiet)
    checkpoint = config.checkpoint.model_copy(update={"resume": "auto"})
    return config.model_copy(update={"run": run, "monitoring": monitoring, "checkpoint": checkpoint})


def _differences(whole: Path, halves: Path, step: int) -> list[str]:
    ours, theirs = _steps(whole), _steps(halves)
    lines = [
        f"step {number}: {tag} {ours[number].get(tag)} uninterrupted, {theirs[number].get(tag)} resumed"
        for number in sorted(ours.keys() & theirs.keys())
        for tag in COMPARED
        if ours[number].get(tag) != theirs[number].get(tag)
    ]
    for steps, others, name in ((ours, theirs, "uninterrupted"), (theirs, ours, "resumed")):
        lines += [f"step {number}: only {name}" for number in sorted(steps.keys() - others.keys())]
    files = [manifest.read(RunDirectory(run).checkpoints / checkpoint_name(step)) for run in (whole, halves)]
    names = [name for name in files[0] if name.endswith(".safetensors")]
    return lines + [f"{name} differs at step {step}" for name in names if files[0][name] != files[1].get(name)]


def _steps(run: Path) -> dict[int, dict]:
    """Return the training lines of metrics.jsonl by their steps."""
    return {line["step"]: line for line in read(RunDirectory(run).metrics) if "train/loss" in line}
