"""`gpt2dist validate`: every mistake of a run configuration at once, or the plan that it resolves to."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist.errors import UserError

if TYPE_CHECKING:  # numpy and pydantic would slow --help down
    from gpt2dist.config import Config
    from gpt2dist.plan import Plan, TrainingSet

EXAMPLES = """\
examples:
  gpt2dist validate configs/gpt2-124m.yaml --world-size 8
  gpt2dist validate run.yaml optimizer.lr=3e-4 data.train.0.path=data/books --json
"""

Table = dict[str, list[tuple[str, str]]]


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.epilog = EXAMPLES
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file of the run")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="keys to set instead of the file; values are YAML",
    )
    parser.add_argument(
        "--world-size", type=int, default=1, metavar="N", help="ranks that the run is meant for (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print configuration and plan on standard output")


def run(args: argparse.Namespace) -> None:
    """Checks the configuration; prints the plan."""
    from gpt2dist.preflight import resolve

    if args.world_size < 1:
        raise UserError(f"--world-size {args.world_size}: must be at least 1, the number of ranks of the run")
    config, plan = resolve(args.config, args.overrides, args.world_size)
    if args.json:
        print(json.dumps(as_json(config, plan), indent=2, ensure_ascii=False))
    else:
        print(f"{args.config}: right, for {_count(plan.world_size, 'rank')}", file=sys.stderr)
        print(render(table(config, plan)), file=sys.stderr)


def as_json(config: "Config", plan: "Plan") -> dict[str, Any]:
    """The resolved configuration and the plan as one JSON object."""
    from gpt2dist.model.flops import FORMULA

    return {
        "config": config.model_dump(mode="json"),
        "plan": {
            "world_size": plan.world_size,
            "global_batch_size": plan.global_batch_size,
            "micro_batch_size": config.batch.micro_batch_size,
            "accumulation": plan.accumulation,
            "parameters": plan.shape.parameters,
            "vocab_size": plan.shape.vocab_size,
            "padded_vocab_size": plan.shape.padded_vocab_size,
            "context_length": plan.shape.context_length,
            "datasets": [_dataset_as_json(plan, each) for each in plan.datasets],
            "sequence_length": plan.sequence_length,
            "stride": plan.stride,
            "evaluation_stride": plan.evaluation_stride,
            "targets_per_step": plan.targets_per_step,
            "total_steps": plan.total_steps,
            "learning_rates": _learning_rates(config, plan),
            "total_flops": plan.total_flops,
            "flops_formula": FORMULA,
            "checkpoint_bytes": plan.checkpoint_bytes,
            "checkpoints_kept": config.checkpoint.keep_last,
            "validation": [
                {
                    "name": each.name,
                    "dataset": str(each.dataset.directory),
                    "split": each.split,
                    "tokens": each.dataset.totals(each.split).tokens,
                    "documents": each.dataset.totals(each.split).documents,
                }
                for each in plan.validation
            ],
        },
    }


def _dataset_as_json(plan: "Plan", each: "TrainingSet") -> dict[str, Any]:
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


def table(config: "Config", plan: "Plan") -> Table:
    """The plan for people: per section, lines of a name and a text with units."""
    return {
        "model": _model(config, plan),
        "data": _data(config, plan),
        "batch": _batch(config, plan),
        "schedule": _schedule(config, plan),
        "compute": _compute(config, plan),
        "checkpoints": _checkpoints(config, plan),
        "validation": _validation(config, plan),
    }


def render(sections: Table) -> str:
    """Aligns the sections in three columns; a section's name stands beside its first line only."""
    left = max(map(len, sections)) + 2
    middle = max(len(name) for lines in sections.values() for name, _ in lines) + 2
    return "\n".join(
        f"{'' if number else section:<{left}}{name:<{middle}}{text}".rstrip()
        for section, lines in sections.items()
        for number, (name, text) in enumerate(lines)
    )


def _model(config: "Config", plan: "Plan") -> list[tuple[str, str]]:
    shape = plan.shape
    blocks = f"{_count(shape.n_layer, 'layer')}, {_count(shape.n_head, 'head')}, {shape.n_embd:,} wide"
    sizes = f"{blocks}, context of {_count(shape.context_length, 'token')}"
    origin = f"from {config.model.init_from}" if config.model.init_from else config.model.preset
    return [
        ("shape", f"{sizes} ({origin})" if origin else sizes),
        ("parameters", f"{shape.parameters:,}"),
        ("vocabulary", f"{shape.vocab_size:,}, padded to {shape.padded_vocab_size:,} in memory"),
    ]


def _data(config: "Config", plan: "Plan") -> list[tuple[str, str]]:
    counted = {"all": "every target of a window", "new": "targets that no earlier window had"}
    sizes = f"{plan.sequence_length:,} tokens each, one every {plan.stride:,}"
    loss = ("loss on", f"{config.data.loss_on}: {counted[config.data.loss_on]}")
    seen = {
        "pack": "attention crosses end-of-text",
        "isolate": "attention and positions begin anew at end-of-text",
    }
    borders = ("documents", f"{config.data.document_boundaries}: {seen[config.data.document_boundaries]}")
    if len(plan.datasets) > 1:
        return [*(_blended(plan, each) for each in plan.datasets), ("windows", sizes), loss, borders]
    (one,) = plan.datasets
    return [
        ("dataset", str(one.dataset.directory)),
        ("size", _size(one)),
        ("windows", f"{len(one.windows):,} per epoch, {sizes}"),
        loss,
        borders,
        ("passes", _passes(plan, one)),
    ]


def _blended(plan: "Plan", each: "TrainingSet") -> tuple[str, str]:
    part = f"{100 * plan.part(each):.4g} % of the windows"
    windows = f"{len(each.windows):,} windows per epoch"
    return each.name, f"{part}; {_size(each)}, {windows}; {_passes(plan, each)}"


def _size(each: "TrainingSet") -> str:
    totals = each.dataset.totals("train")
    return f"{_count(totals.tokens, 'token')}, {_count(totals.documents, 'document')}"


def _passes(plan: "Plan", each: "TrainingSet") -> str:
    seen = f"each token is trained on {_amount(plan.times_seen(each))} times"
    return f"{_amount(plan.epochs(each))} epochs; {seen}"


def _batch(config: "Config", plan: "Plan") -> list[tuple[str, str]]:
    product = (
        f"{config.batch.micro_batch_size} micro × {plan.accumulation} accumulation × {plan.world_size} world"
    )
    return [
        ("windows", f"{plan.global_batch_size:,} per step = {product}"),
        ("targets", f"{plan.targets_per_step:,.0f} per step"),
    ]


def _schedule(config: "Config", plan: "Plan") -> list[tuple[str, str]]:
    schedule = config.schedule
    lines = [
        ("steps", f"{plan.total_steps:,}, of which {plan.warmup_steps:,} warmup, then {schedule.kind}"),
        *((f"lr at step {step:,}", f"{lr:.3g}") for step, lr in _learning_rates(config, plan).items()),
    ]
    if config.run.stop_after_steps:
        lines.append(("leaves early", f"after {_count(config.run.stop_after_steps, 'step')}"))
    return lines


def _learning_rates(config: "Config", plan: "Plan") -> dict[int, float]:
    """Step (from 0) → learning rate: at the start, the peak, half-way and at the end."""
    from gpt2dist.training.schedule import learning_rate

    warmup, total, peak = plan.warmup_steps, plan.total_steps, config.optimizer.lr
    steps = {0, max(0, warmup - 1), total // 2, total - 1}
    return {step: learning_rate(config.schedule, peak, warmup, total, step) for step in sorted(steps)}


def _compute(config: "Config", plan: "Plan") -> list[tuple[str, str]]:
    from gpt2dist.model.flops import FORMULA

    return [
        ("precision", config.precision),
        ("ZeRO", f"stage {config.zero.stage}"),
        ("FLOPs", f"{plan.total_flops:.3g} in all"),
        ("", FORMULA),
    ]


def _checkpoints(config: "Config", plan: "Plan") -> list[tuple[str, str]]:
    every, keep = config.checkpoint.every_steps, config.checkpoint.keep_last
    size = plan.checkpoint_bytes
    return [
        ("directory", str(config.output_dir / "checkpoints")),
        ("written", f"every {_count(every, 'step')} and at the end" if every else "at the end"),
        ("size", f"{_bytes(size)} each; the newest {keep:,} kept: {_bytes(size * keep)}"),
    ]


def _validation(config: "Config", plan: "Plan") -> list[tuple[str, str]]:
    if not plan.validation:
        return [("sets", "none")]
    every = config.evaluation.every_steps
    when = f"every {_count(every, 'step')} and at the end" if every else "at the end"
    lines = [("scored", f"{when}, with one window every {_count(plan.evaluation_stride, 'token')}")]
    for each in plan.validation:
        totals = each.dataset.totals(each.split)
        size = f"{_count(totals.tokens, 'token')}, {_count(totals.documents, 'document')}"
        lines.append((f"eval/{each.name}", f"{each.dataset.directory}, split {each.split}: {size}"))
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _amount(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"
