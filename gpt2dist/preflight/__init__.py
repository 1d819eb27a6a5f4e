"""Check a run before it starts, report all of its mistakes together, and compute its plan.

Each module checks one subject. The package does not import torch, so `validate` answers instantly, even on a
laptop for a run on a cluster.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt2dist.config import Config, Problem, raise_problems, read
from gpt2dist.loading.mixture import Mixture
from gpt2dist.model.huggingface import parameter_shapes
from gpt2dist.model.shape import Shape
from gpt2dist.plan import Plan, TrainingSet, ValidationSet
from gpt2dist.preflight.batch import batch_sizes, check_batch
from gpt2dist.preflight.data import training_sets, validation_sets
from gpt2dist.preflight.deepspeed import check_offload, check_precision, check_reduce_dtype
from gpt2dist.preflight.deepspeed_keys import check_raw_keys
from gpt2dist.preflight.directories import check_directories
from gpt2dist.preflight.evaluation import check_keep_best, check_measures
from gpt2dist.preflight.init_from import check_vocabulary, read_origin, vocab_size_of
from gpt2dist.preflight.model import (
    Lengths,
    check_kernels,
    check_lengths,
    check_model,
    lengths_of,
    shape_of,
)
from gpt2dist.preflight.monitoring import (
    check_hooks,
    check_on_commit,
    check_profile,
    check_samples,
    check_trackers,
)
from gpt2dist.preflight.open_files import check_open_files
from gpt2dist.preflight.optimizer import check_optimizer
from gpt2dist.preflight.schedule import check_schedule, total_steps, warmup_steps
from gpt2dist.training.optimizers import optimizer_kind
from gpt2dist.training.optimizers.base import state_bytes


def resolve(path: Path, overrides: list[str], world_size: int | None) -> tuple[Config, Plan]:
    """Read, check and plan a run.

    Args:
        path: The configuration file.
        overrides: Overrides of the form `section.key=value`.
        world_size: Number of ranks; None takes `run.world_size`, or 1 if that is not set.

    Raises:
        UserError: The file cannot be read, or it has mistakes; the message lists each with its key and a fix.
    """
    config, wrong = read(path, overrides)
    return plan_run(config, world_size, str(path), wrong)


def plan_run(
    config: Config, world_size: int | None, where: str, wrong: Sequence[Problem] = ()
) -> tuple[Config, Plan]:
    """Check and plan a run.

    Args:
        config: The configuration.
        world_size: As for `resolve`.
        where: Name of the configuration, for the message.
        wrong: Problems found while reading the configuration, to report with the others.

    Returns:
        The configuration, completed with the shape of `model.init_from`, and the plan.

    Raises:
        UserError: The configuration has mistakes; the message lists each with its key and a fix.
    """
    config, origin, wrong_origin = read_origin(config)
    world_size = world_size or config.run.world_size or 1
    lengths = lengths_of(config)
    datasets, wrong_training = training_sets(config, lengths)
    validation, wrong_validation = validation_sets(config, datasets)
    found = [
        *wrong_origin,
        *([] if wrong_origin else check_model(config)),
        *check_vocabulary(origin, config, datasets),
        *check_kernels(config),
        *check_lengths(config, lengths),
        *wrong_training,
        *wrong_validation,
        *_check_settings(config, world_size, datasets),
        *check_open_files(world_size, datasets, validation),
    ]
    # A key that is wrong by itself now has its default. Problems that follow from that default would mislead.
    independent = [p for p in found if not any(p.follows_from(cause) for cause in wrong)]
    raise_problems([*wrong, *independent], where)
    shape = shape_of(config, lengths, vocab_size_of(origin, datasets))
    return config, _build_plan(config, world_size, shape, lengths, datasets, validation)


def _check_settings(config: Config, world_size: int, datasets: tuple[TrainingSet, ...]) -> Iterator[Problem]:
    """Yield the problems of the sections other than model and data."""
    yield from check_measures(config)
    yield from check_keep_best(config)
    yield from _check_world_size(config, world_size)
    yield from check_batch(config, world_size)
    yield from check_schedule(config, datasets)
    yield from check_optimizer(config)
    yield from check_precision(config)
    yield from check_offload(config)
    yield from check_reduce_dtype(config)
    yield from check_raw_keys(config)
    yield from check_samples(config)
    yield from check_profile(config, datasets)
    yield from check_trackers(config)
    yield from check_hooks(config)
    yield from check_on_commit(config)
    yield from check_directories(config)


def _build_plan(
    config: Config,
    world_size: int,
    shape: Shape,
    lengths: Lengths,
    datasets: tuple[TrainingSet, ...],
    validation: tuple[ValidationSet, ...],
) -> Plan:
    return Plan(
        world_size=world_size,
        batch_sizes=batch_sizes(config),
        micro_batch_size=config.batch.micro_batch_size,
        shape=shape,
        optimizer_state_bytes=state_bytes(optimizer_kind(config), parameter_shapes(shape)),
        datasets=datasets,
        mixture=Mixture(
            [len(each.windows) for each in datasets], [each.share for each in datasets], config.run.seed
        ),
        validation=validation,
        sequence_length=lengths.sequence,
        stride=lengths.stride,
        evaluation_stride=lengths.evaluation_stride,
        warmup_steps=warmup_steps(config, datasets),
        total_steps=total_steps(config, datasets),
    )


def _check_world_size(config: Config, world_size: int) -> Iterator[Problem]:
    submitted = config.run.world_size
    if submitted and submitted != world_size:
        yield Problem(
            "run.world_size",
            f"the job was submitted for {submitted} ranks but started with {world_size}; start {submitted}, or "
            f"set run.world_size={world_size} to continue with that number",
        )
