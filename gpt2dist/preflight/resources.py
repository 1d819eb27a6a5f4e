"""Check that memory and disk suffice for a run, and propose changes if they do not."""

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt2dist.config import Config, Problem, raise_problems
from gpt2dist.errors import UserError
from gpt2dist.memory import GIB, format_bytes
from gpt2dist.output_paths import check_directory, nearest_directory
from gpt2dist.plan import Plan
from gpt2dist.preflight.batch import check_batch
from gpt2dist.preflight.deepspeed import check_offload, check_precision
from gpt2dist.preflight.memory import STATES, estimate, memory_inputs, total
from gpt2dist.preflight.messages import divisors
from gpt2dist.preflight.model import check_kernels
from gpt2dist.preflight.optimizer import check_supported
from gpt2dist.run.directory import RunDirectory
from gpt2dist.training.on_commit import MOST_HELD

Changes = Mapping[str, Any]
"""Dotted key → new value."""


def device_memory_bytes(gib: float | None) -> int | None:
    """Convert the value of --device-memory, in GiB per GPU, to bytes.

    Raises:
        UserError: The value is not above 0.
    """
    if gib is None:
        return None
    if not gib > 0:
        raise UserError(f"--device-memory {gib:g}: must be above 0, in GiB per GPU")
    return int(gib * GIB)


def require_resources(where: str, config: Config, plan: Plan, device_bytes: int | None = None) -> None:
    """Check that the run's directory is writable and that its disk and devices have enough space.

    Args:
        where: Path of the configuration file, for the message.
        config: The run's configuration.
        plan: Its plan.
        device_bytes: Memory of each device in bytes; None skips the check of memory.

    Raises:
        UserError: A check failed; the message lists every failure with a fix.
    """
    found = [*check_output(config), *check_disk(config, plan)]
    if device_bytes is not None:
        found += check_memory(config, plan, device_bytes)
    raise_problems(found, where)


def check_memory(config: Config, plan: Plan, device_bytes: int) -> Iterator[Problem]:
    """Check that the estimate fits into the memory of a device."""
    parts = estimate(memory_inputs(config, plan))
    states, needed = total(parts, STATES), total(parts)
    if needed <= device_bytes:
        return
    excess = f"more than the {_gib(device_bytes)} of a device"
    fix = _first_fit(config, plan, device_bytes)
    if states > device_bytes:
        what = f"weights, gradients and optimizer state need about {_gib(states)} on each rank (an estimate)"
        yield Problem("zero.stage", f"{what}, {excess}; {fix}")
    else:
        what = f"a rank needs about {_gib(needed)} (an estimate), {_gib(states)} of it for the model states"
        yield Problem("batch.micro_batch_size", f"{what}, {excess}; {fix}")


def states_fit(config: Config, plan: Plan, device_bytes: int) -> bool:
    """Return whether the STATES fit into the memory of a device. Their estimate is exact to a few percent."""
    return total(estimate(memory_inputs(config, plan)), STATES) <= device_bytes


def _first_fit(config: Config, plan: Plan, device_bytes: int) -> str:
    """Describe the first change, in order of increasing cost in time, with which the estimate fits."""
    least = math.inf
    for changes in _changes(config, plan):
        changed = _with(config, changes)
        refused = (
            *check_batch(changed, plan.world_size),
            *check_supported(changed),
            *check_precision(changed),
            *check_offload(changed),
            *check_kernels(changed),
        )
        if refused:
            continue
        needed = total(estimate(memory_inputs(changed, plan)))
        least = min(least, needed)
        if needed <= device_bytes:
            words = " ".join(f"{key}={_as_yaml(value)}" for key, value in changes.items())
            return f"with {words} it needs {_gib(needed)}"
    return f"no change of batch, ZeRO stage or offload brings it below {_gib(least)}; use more or larger GPUs"


def _changes(config: Config, plan: Plan) -> Iterator[Changes]:
    smaller = divisors(config.batch.micro_batch_size)[:-1]
    one: Changes = {"batch.micro_batch_size": 1}
    recomputed: Changes = {"model.activation_checkpointing": True}
    stages: list[Changes] = [{"zero.stage": stage} for stage in range(config.zero.stage + 1, 4)]
    on_host: Changes = {"zero.offload_optimizer": "cpu"}
    if config.model.loss == "plain":
        yield {"model.loss": "chunked"}
    if plan.world_size > 1:
        yield from (each for each in stages if each["zero.stage"] < 3)
    yield from ({"batch.micro_batch_size": size} for size in reversed(smaller))
    yield recomputed
    yield {**one, **recomputed}
    if plan.world_size > 1:
        yield from stages
        yield from ({**stage, **one, **recomputed} for stage in stages)
    yield on_host
    yield {**on_host, **one, **recomputed}
    yield from ({**stage, **on_host} for stage in stages)
    yield from ({**stage, **on_host, **one, **recomputed} for stage in stages)
    yield {"zero.stage": 3, "zero.offload_parameters": "cpu", **on_host, **one, **recomputed}


def _with(config: Config, changes: Changes) -> Config:
    """Return the configuration with some keys changed."""
    for key, value in changes.items():
        name, field = key.split(".")
        section = getattr(config, name).model_copy(update={field: value})
        config = config.model_copy(update={name: section})
    return config


def checkpoint_space(config: Config, plan: Plan) -> int:
    """Return the maximum bytes of all checkpoints together: those kept and those in transit."""
    checkpoint = config.checkpoint
    last = min(plan.total_steps, config.run.stop_after_steps or plan.total_steps)
    every = checkpoint.every_steps or last
    # The best checkpoint may be of any evaluation.
    evaluated = (config.evaluation.every_steps or last) if checkpoint.keep_best else None
    permanent = _steps_with(last, every, evaluated, checkpoint.keep_every) if checkpoint.keep_every else 0
    temporary = checkpoint.keep_last + bool(checkpoint.keep_best) + _in_transit(config)
    if not checkpoint.every_minutes:  # with it, the number of checkpoints is not known in advance
        saved = _steps_with(last, every, evaluated) + (last % every > 0 and last % (evaluated or every) > 0)
        temporary = min(temporary, saved - permanent)
    return (temporary + permanent) * plan.checkpoint_bytes


def _in_transit(config: Config) -> int:
    """Return the checkpoints beyond those kept: the one being written, and those kept for `on_commit`."""
    return 1 + (MOST_HELD if config.checkpoint.on_commit else 0)


def _steps_with(last: int, every: int, evaluated: int | None, multiple: int = 1) -> int:
    """Return how many steps are multiples of `every` or `evaluated`, and also of `multiple`."""
    count = last // math.lcm(every, multiple)
    if evaluated:
        count += last // math.lcm(evaluated, multiple) - last // math.lcm(every, evaluated, multiple)
    return count


def check_disk(config: Config, plan: Plan) -> Iterator[Problem]:
    """Check that the checkpoints fit on the disk, counting those that the run already has there."""
    home = nearest_directory(config.output_dir)
    more = _in_transit(config)
    number = config.checkpoint.keep_last + bool(config.checkpoint.keep_best) + more
    free, needed = shutil.disk_usage(home).free, checkpoint_space(config, plan)
    existing = sum(_file_size(path) for path in RunDirectory(config.output_dir).checkpoints.glob("*/*"))
    if needed - existing > free:
        part = f", of which {format_bytes(existing)} exist" if existing else ""
        best = "the best + " if config.checkpoint.keep_best else ""
        permanent = " and those of checkpoint.keep_every" if config.checkpoint.keep_every else ""
        yield Problem(
            "run.output_dir",
            f"{home} has {format_bytes(free)} free; "
            f"checkpoint.keep_last + {best}{more} = {number} checkpoints of "
            f"{format_bytes(plan.checkpoint_bytes)}{permanent} need {format_bytes(needed)}{part}; "
            "free some space, keep fewer, or set a directory on a larger disk",
            also=("checkpoint.keep_last",),
        )


def check_output(config: Config) -> Iterator[Problem]:
    """Check that files can be created in the run's directory."""
    try:
        check_directory(config.output_dir, "run.output_dir")
    except UserError as error:
        yield Problem("run.output_dir", str(error).removeprefix("run.output_dir: "))


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # deleted in the meantime
        return 0


def _as_yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _gib(number: float) -> str:
    return f"{number / GIB:.1f} GiB"
