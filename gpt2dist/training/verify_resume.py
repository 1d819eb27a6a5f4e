"""Verify that a resumed run equals an uninterrupted one: N + N steps against 2N.

Only a device that repeats its own results can show that. If two uninterrupted trainings differ, a difference
after a resume says nothing.
"""

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
SHOWN = 20
"""Number of differences that a message lists."""


def verify_resume(config: Config, plan: Plan, world: World, steps: int) -> list[str]:
    """Train 2N steps without a stop, and N + N with one; compare the results. Collective.

    The 2N steps are trained a second time, to see whether the device repeats its results. A GPU without
    `run.deterministic` may not, so there this comes first. Elsewhere, it is needed only to explain a difference.

    Args:
        config: The run's configuration. The trainings get subdirectories of its output directory.
        plan: The run's plan.
        world: This rank.
        steps: Optimizer steps N of each half.

    Returns:
        One line per difference; the same on every rank. If there are none, the compared metrics and the
        safetensors files are identical, and the trainings are deleted.

    Raises:
        UserError: N is below 1, or the run has fewer than 2N steps.
        RunError: Two uninterrupted trainings differ, or a signal stopped one of the trainings.
    """
    if not 1 <= steps <= plan.total_steps // 2:
        raise UserError(
            f"--steps {steps}: a half must have at least 1 step and at most half of the run's {plan.total_steps}"
        )
    home = RunDirectory(config.output_dir).verify_resume
    whole, again, halves = home / "whole", home / "again", home / "halves"
    if world.is_main:
        for left in (whole, again, halves):
            shutil.rmtree(left, ignore_errors=True)

    def train_to(directory: Path, stop: int) -> None:
        if signal := train(_part(config, directory, stop), plan, world):
            raise RunError(f"stopped by {described(signal)} before the comparison; start it again")
        gc.collect()  # engines contain reference cycles
        if world.device.type == "cuda":
            torch.cuda.empty_cache()

    def differences(other: Path, name: str) -> list[str]:
        return world.on_main(lambda: _differences(whole, other, 2 * steps, name))

    def require_repeatable() -> None:
        train_to(again, 2 * steps)
        if found := differences(again, "repeated"):
            raise RunError(_not_deterministic(config, world, 2 * steps, found, home))

    expected = config.run.deterministic or world.device.type == "cpu"
    train_to(whole, 2 * steps)
    if not expected:
        require_repeatable()
    train_to(halves, steps)
    train_to(halves, 2 * steps)
    found = differences(halves, "resumed")
    if found and expected:
        require_repeatable()
    if world.is_main and not found:
        shutil.rmtree(home, ignore_errors=True)
    return found


def _not_deterministic(config: Config, world: World, steps: int, differences: list[str], home: Path) -> str:
    """Return the message that two uninterrupted trainings differ."""
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "a CPU"
    listed = "".join(f"\n  {line}" for line in differences[:SHOWN])
    way_out = "set run.deterministic=true and try again"
    if config.run.deterministic:
        way_out = "run.deterministic is set, so look for another cause, such as an optimizer of your own"
    return (
        f"this run is not deterministic on {device}: two trainings of {steps} steps without a stop differ, so a "
        f"resume cannot be compared with them; {way_out}; see {home}{listed}"
    )


def _part(config: Config, directory: Path, stop: int) -> Config:
    """Return the configuration of the run up to a step, in another directory and logged at every step."""
    run = config.run.model_copy(update={"output_dir": directory, "stop_after_steps": stop, "hooks": ()})
    quiet = {"log_every_steps": 1, "tensorboard": False, "trackers": (), "profile": None}
    monitoring = config.monitoring.model_copy(update=quiet)
    checkpoint = config.checkpoint.model_copy(update={"resume": "auto", "keep_best": None, "on_commit": None})
    evaluation = config.evaluation.model_copy(update={"patience": None})  # each half goes to its last step
    sections = {"run": run, "monitoring": monitoring, "checkpoint": checkpoint, "evaluation": evaluation}
    return config.model_copy(update=sections)


def _differences(whole: Path, other: Path, step: int, name: str) -> list[str]:
    """Return how another training differs from the uninterrupted one, up to a step, as lines that name it."""
    ours, theirs = _steps(whole), _steps(other)
    lines = [
        f"step {number}: {tag} {ours[number].get(tag)} uninterrupted, {theirs[number].get(tag)} {name}"
        for number in sorted(ours.keys() & theirs.keys())
        for tag in COMPARED
        if ours[number].get(tag) != theirs[number].get(tag)
    ]
    for steps, others, which in ((ours, theirs, "uninterrupted"), (theirs, ours, name)):
        lines += [f"step {number}: only {which}" for number in sorted(steps.keys() - others.keys())]
    files = [manifest.read(RunDirectory(run).checkpoints / checkpoint_name(step)) for run in (whole, other)]
    names = [name for name in files[0] if name.endswith(".safetensors")]
    return lines + [f"{name} differs at step {step}" for name in names if files[0][name] != files[1].get(name)]


def _steps(run: Path) -> dict[int, dict]:
    """Return the training lines of metrics.jsonl by their steps."""
    return {line["step"]: line for line in read(RunDirectory(run).metrics) if "train/loss" in line}
