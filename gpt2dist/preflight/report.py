"""Present the plan of a run as text for people and as JSON for programs."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from gpt2dist.config import Config
from gpt2dist.loading.mixture import share_error
from gpt2dist.memory import GIB, format_bytes
from gpt2dist.model.flops import FORMULA
from gpt2dist.output_paths import nearest_directory
from gpt2dist.plan import Plan, TrainingSet, ValidationSet
from gpt2dist.preflight.duration import durations
from gpt2dist.preflight.memory import estimate, memory_inputs, total
from gpt2dist.preflight.plot import plot, sampled
from gpt2dist.preflight.resources import checkpoint_space
from gpt2dist.run.directory import RunDirectory
from gpt2dist.training.lr_schedule import decay_steps, learning_rate

Table = dict[str, list[tuple[str, str]]]
PLOT_HEIGHT = 6
"""Lines of the learning rate's plot."""


def as_json(config: Config, plan: Plan, device: str | None = None) -> dict[str, Any]:
    """Return the resolved configuration and the plan as one JSON object.

    Args:
        config: The run's configuration.
        plan: Its plan.
        device: Name of a GPU for which to estimate the hours; None as in `durations`.

    Raises:
        UserError: The peak FLOP/s of that GPU is unknown.
    """
    return {
        "config": config.model_dump(mode="json"),
        "plan": {
            "world_size": plan.world_size,
            "global_batch_size": plan.global_batch_size,
            "micro_batch_size": config.batch.micro_batch_size,
            "accumulation": plan.accumulation,
            "batch_sizes": [asdict(stage) for stage in plan.batch_sizes.stages],
            "parameters": plan.shape.parameters,
            "vocab_size": plan.shape.vocab_size,
            "padded_vocab_size": plan.shape.padded_vocab_size,
            "context_length": plan.shape.context_length,
            "datasets": [_dataset_as_json(plan, each) for each in plan.datasets],
            "sequence_length": plan.sequence_length,
            "stride": plan.stride,
            "evaluation_stride": plan.evaluation_stride,
            "targets_per_step": plan.targets_per_step,
            "warmup_steps": plan.warmup_steps,
            "total_steps": plan.total_steps,
            "total_samples": plan.total_samples,
            "total_tokens": plan.total_samples * plan.sequence_length,
            "learning_rates": _learning_rates(config, plan),
            "total_flops": plan.total_flops,
            "flops_formula": FORMULA,
            "expected_hours": [asdict(each) for each in durations(config, plan, device)],
            "memory_estimate": _memory_as_json(config, plan),
            "checkpoint_bytes": plan.checkpoint_bytes,
            "checkpoints_kept": config.checkpoint.keep_last,
            "checkpoint_space": checkpoint_space(config, plan),
            "disk_free": shutil.disk_usage(nearest_directory(config.output_dir)).free,
            "validation": [_validation_as_json(each) for each in plan.validation],
        },
    }


def _memory_as_json(config: Config, plan: Plan) -> dict[str, Any]:
    memory = estimate(memory_inputs(config, plan))
    return {
        "parts": [asdict(part) for part in memory],
        "device": total(memory),
        "host": sum(part.host for part in memory),
    }


def _validation_as_json(each: ValidationSet) -> dict[str, Any]:
    totals = each.dataset.totals(each.split)
    return {
        "name": each.name,
        "dataset": str(each.dataset.directory),
        "split": each.split,
        "tokens": totals.tokens,
        "documents": totals.documents,
    }


def _dataset_as_json(plan: Plan, each: TrainingSet) -> dict[str, Any]:
    totals = each.dataset.totals("train")
    return {
        "name": each.name,
        "dataset": str(each.dataset.directory),
        "fingerprint": each.dataset.fingerprint,
        "part": plan.part(each),
        "tokens": totals.tokens,
        "documents": totals.documents,
        "windows": len(each.windows),
        "targets_per_epoch": each.targets_per_epoch,
        "epochs": plan.epochs(each),
        "times_seen": plan.times_seen(each),
    }


def table(config: Config, plan: Plan, device: str | None = None) -> Table:
    """Return the plan for people: for each section, lines of a name and a text with units.

    Args:
        config: The run's configuration.
        plan: Its plan.
        device: Name of a GPU for which to estimate the hours; None as in `durations`.

    Raises:
        UserError: The peak FLOP/s of that GPU is unknown.
    """
    return {
        "model": _model(config, plan),
        "data": _data(config, plan),
        "batch": _batch(config, plan),
        "schedule": _schedule(config, plan),
        "compute": _compute(config, plan, device),
        "memory": _memory(config, plan),
        "checkpoints": _checkpoints(config, plan),
        "validation": _validation(config, plan),
    }


def render(sections: Table) -> str:
    """Align the sections in three columns, with a section's name on its first line only."""
    left = max(map(len, sections)) + 2
    middle = max(len(name) for lines in sections.values() for name, _ in lines) + 2
    return "\n".join(
        f"{'' if number else section:<{left}}{name:<{middle}}{text}".rstrip()
        for section, lines in sections.items()
        for number, (name, text) in enumerate(lines)
    )


def _model(config: Config, plan: Plan) -> list[tuple[str, str]]:
    shape = plan.shape
    blocks = f"{count(shape.n_layer, 'layer')}, {count(shape.n_head, 'head')}, {shape.n_embd:,} wide"
    sizes = f"{blocks}, context of {count(shape.context_length, 'token')}"
    origin = f"from {config.model.init_from}" if config.model.init_from else config.model.preset
    return [
        ("shape", f"{sizes} ({origin})" if origin else sizes),
        ("parameters", f"{shape.parameters:,}"),
        ("vocabulary", f"{shape.vocab_size:,}, padded to {shape.padded_vocab_size:,} in memory"),
    ]


def _data(config: Config, plan: Plan) -> list[tuple[str, str]]:
    counted = {"all": "every target of a window", "new": "targets that no earlier window contains"}
    sizes = f"{plan.sequence_length:,} tokens each, one every {plan.stride:,}"
    loss = ("loss on", f"{config.data.loss_on}: {counted[config.data.loss_on]}")
    seen = {
        "pack": "attention crosses end-of-text",
        "isolate": "attention and positions restart at end-of-text",
    }
    borders = ("documents", f"{config.data.document_boundaries}: {seen[config.data.document_boundaries]}")
    if len(plan.datasets) > 1:
        blend = [*(_blended(plan, each) for each in plan.datasets), ("shares", _shares(config, plan))]
        return [*blend, ("windows", sizes), loss, borders]
    (one,) = plan.datasets
    return [
        ("dataset", str(one.dataset.directory)),
        ("size", _dataset_size(one)),
        ("windows", f"{len(one.windows):,} per epoch, {sizes}"),
        loss,
        borders,
        ("passes", _passes(plan, one)),
    ]


def _blended(plan: Plan, each: TrainingSet) -> tuple[str, str]:
    part = f"{100 * plan.part(each):.4g} % of the windows"
    windows = f"{len(each.windows):,} windows per epoch"
    return each.name, f"{part}; {_dataset_size(each)}, {windows}; {_passes(plan, each)}"


def _shares(config: Config, plan: Plan) -> str:
    """Describe how closely the blend follows the weights."""
    error = share_error([each.weight or 1.0 for each in config.data.train], plan.mixture.shares)
    ratio = f"differ from the weights by at most {error:.1g} of all windows" if error else "exactly the weights"
    return f"{ratio}; every prefix of the run has them to within {plan.mixture.turns.most_off:.3g} windows"


def _dataset_size(each: TrainingSet) -> str:
    totals = each.dataset.totals("train")
    return f"{count(totals.tokens, 'token')}, {count(totals.documents, 'document')}"


def _passes(plan: Plan, each: TrainingSet) -> str:
    seen = f"each token is trained on {_amount(plan.times_seen(each))} times"
    return f"{_amount(plan.epochs(each))} epochs; {seen}"


def _batch(config: Config, plan: Plan) -> list[tuple[str, str]]:
    product = (
        f"{config.batch.micro_batch_size} micro × {plan.accumulation} accumulation × {plan.world_size} world"
    )
    lines = [
        ("windows", f"{plan.global_batch_size:,} per step = {product}"),
        ("targets", f"{plan.targets_per_step:,.0f} per step"),
    ]
    ramp, stages = config.batch.ramp, plan.batch_sizes.stages
    if ramp:
        full = stages[-1].step
        reached = (
            f"full size from step {full:,} on"
            if full < plan.total_steps
            else "the run ends before it is complete"
        )
        lines.append(("ramp", f"from {ramp.start:,} windows, {ramp.increment:,} more each time; {reached}"))
        lines += _plotted(plan, partial(_size_at, plan), plan.global_batch_size, 2, lambda size: f"{size:,.0f}")
    return lines


def _size_at(plan: Plan, step: int) -> float:
    return plan.batch_sizes.at(plan.batch_sizes.samples(step))


def _schedule(config: Config, plan: Plan) -> list[tuple[str, str]]:
    schedule, total_steps = config.schedule, plan.total_steps
    rate = partial(_learning_rate, config, plan)
    then: str = schedule.kind
    if schedule.kind == "wsd":
        then = f"constant, with a decay in the last {decay_steps(schedule, total_steps):,} (wsd)"
    lines = [
        ("steps", f"{total_steps:,}, of which {plan.warmup_steps:,} warmup, then {then}"),
        *((f"lr at step {step:,}", f"{lr:.3g}") for step, lr in _learning_rates(config, plan).items()),
        *_plotted(plan, rate, config.optimizer.lr, PLOT_HEIGHT, lambda lr: f"{lr:.2g}"),
    ]
    if config.run.stop_after_steps:
        lines.append(("stops early", f"after {count(config.run.stop_after_steps, 'step')}"))
    return lines


def _plotted(
    plan: Plan, of_step: Callable[[int], float], top: float, height: int, label: Callable[[float], str]
) -> list[tuple[str, str]]:
    """Plot a function of the step; return no lines for a run shorter than 8 steps."""
    if plan.total_steps < 8:
        return []
    ends = "0", f"step {plan.total_steps - 1:,}"
    return [("", line) for line in plot(sampled(of_step, plan.total_steps), top, height, label, ends)]


def _learning_rates(config: Config, plan: Plan) -> dict[int, float]:
    """Return 0-based step → learning rate: start, peak, half-way, start of wsd's decay, and end."""
    total_steps = plan.total_steps
    steps = {0, max(0, plan.warmup_steps - 1), total_steps // 2, total_steps - 1}
    if config.schedule.kind == "wsd":
        steps.add(total_steps - decay_steps(config.schedule, total_steps))
    return {step: _learning_rate(config, plan, step) for step in sorted(steps)}


def _learning_rate(config: Config, plan: Plan, step: int) -> float:
    return learning_rate(config.schedule, config.optimizer.lr, plan.warmup_steps, plan.total_steps, step)


def _compute(config: Config, plan: Plan, device: str | None) -> list[tuple[str, str]]:
    return [
        ("precision", config.precision),
        ("ZeRO", _zero(config)),
        ("tokens", f"{plan.total_samples * plan.sequence_length:,} in total"),
        ("FLOPs", f"{plan.total_flops:.3g} in total"),
        ("", FORMULA),
        *(("time", f"about {_time(each.hours)} {each.basis}") for each in durations(config, plan, device)),
    ]


def _zero(config: Config) -> str:
    zero = config.zero
    places = {"optimizer": zero.offload_optimizer, "parameters": zero.offload_parameters}
    offloaded = [f"{what} offloaded to {place}" for what, place in places.items() if place != "none"]
    return ", ".join([f"stage {zero.stage}", *offloaded])


def _memory(config: Config, plan: Plan) -> list[tuple[str, str]]:
    parts = [part for part in estimate(memory_inputs(config, plan)) if part.device or part.host]
    sizes = [f"{part.device / GIB:.2f} GiB" for part in parts]
    whole = f"{total(tuple(parts)) / GIB:.2f} GiB"
    widest = max(map(len, [*sizes, whole]))
    host = sum(part.host for part in parts)
    on_host = f", and {host / GIB:.2f} GiB of host memory" if host else ""
    return [
        *((part.name, f"{size:>{widest}}  {part.what}") for part, size in zip(parts, sizes, strict=True)),
        ("each rank", f"{whole:>{widest}}  an estimate{on_host}, without what CUDA and NCCL need"),
    ]


def _checkpoints(config: Config, plan: Plan) -> list[tuple[str, str]]:
    keep, keep_every = config.checkpoint.keep_last, config.checkpoint.keep_every
    permanent = f", and those at multiples of {count(keep_every, 'step')} forever" if keep_every else ""
    best = f"; the best by {config.checkpoint.keep_best}, too" if config.checkpoint.keep_best else ""
    size, home = plan.checkpoint_bytes, nearest_directory(config.output_dir)
    free = shutil.disk_usage(home).free
    return [
        ("directory", str(RunDirectory(config.output_dir).checkpoints)),
        ("written", _when_saved(config)),
        (
            "size",
            f"{format_bytes(size)} each; the newest {keep:,} kept: {format_bytes(size * keep)}{permanent}{best}",
        ),
        (
            "disk",
            f"{format_bytes(checkpoint_space(config, plan))} at most, {format_bytes(free)} free in {home}",
        ),
    ]


def _when_saved(config: Config) -> str:
    steps, minutes = config.checkpoint.every_steps, config.checkpoint.every_minutes
    times = [f"every {count(steps, 'step')}"] if steps else []
    times += ["at each new best"] if config.checkpoint.keep_best else []
    times += [f"every {minutes:g} minute{'' if minutes == 1 else 's'}"] if minutes else []
    return " and ".join([", ".join(times), "at the end"]) if times else "at the end"


def _validation(config: Config, plan: Plan) -> list[tuple[str, str]]:
    if not plan.validation:
        return [("sets", "none")]
    every = config.evaluation.every_steps
    when = f"every {count(every, 'step')} and at the end" if every else "at the end"
    if config.evaluation.patience:
        when += f", until {count(config.evaluation.patience, 'evaluation')} in a row bring no improvement"
    lines = [("scored", f"{when}, with one window every {count(plan.evaluation_stride, 'token')}")]
    for each in plan.validation:
        totals = each.dataset.totals(each.split)
        size = f"{count(totals.tokens, 'token')}, {count(totals.documents, 'document')}"
        lines.append((f"eval/{each.name}", f"{each.dataset.directory}, split {each.split}: {size}"))
    return lines


def count(number: int, noun: str) -> str:
    """Format a number with its noun, as in `1 step` and `2 steps`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _amount(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _time(hours: float) -> str:
    for size, unit in ((3600, "seconds"), (60, "minutes")):
        if hours * size < 60:
            return f"{hours * size:.2g} {unit}"
    return f"{hours:.3g} hours" if hours < 72 else f"{_amount(hours / 24)} days"
