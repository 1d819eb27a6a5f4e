"""Assemble the parts of a run and train it."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from gpt2dist import atomic_io
from gpt2dist.checkpoint.naming import checkpoint_name, step_of
from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.checkpoint.store import CheckpointStore, CommitListener
from gpt2dist.config import Config
from gpt2dist.distributed.hosts import on_each_host
from gpt2dist.distributed.world import World
from gpt2dist.errors import RunError, UserError
from gpt2dist.loading.batch_ramp import Origin
from gpt2dist.loading.loader import MicroBatcher, MixtureBatcher
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.model.flops import flops_per_token, matmul_type, peak_flops
from gpt2dist.model.gpt2 import LanguageModel
from gpt2dist.model.huggingface import write_huggingface_config
from gpt2dist.model.numerics import deterministic_algorithms, fp32_products
from gpt2dist.model.requirements import require_compiler, require_flash_attention, require_varlen
from gpt2dist.monitoring.logs import logger
from gpt2dist.monitoring.meter import Meter
from gpt2dist.monitoring.profile import Profile
from gpt2dist.monitoring.trackers import TRACKERS, Tracker
from gpt2dist.plan import Plan
from gpt2dist.run import starts
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.end_markers import clear_ended, write_failed
from gpt2dist.run.environment import describe
from gpt2dist.run.latest import named_checkpoint
from gpt2dist.run.lock import only_job
from gpt2dist.tokenizer.tokenizer import Tokenizer
from gpt2dist.training.best import BestSoFar
from gpt2dist.training.deepspeed_config import deepspeed_config
from gpt2dist.training.engine import Engine
from gpt2dist.training.evaluator import Evaluator
from gpt2dist.training.failure import failure_marker, report_hang
from gpt2dist.training.hooks import HOOKS, Hooks
from gpt2dist.training.hyperparameters import hyperparameters
from gpt2dist.training.initial_weights import load_initial_weights
from gpt2dist.training.on_commit import CommitCalls
from gpt2dist.training.recorder import MetricsRecorder
from gpt2dist.training.stop import StopCoordinator, StopSignal
from gpt2dist.training.trainer import Trainer
from gpt2dist.training.watchdog import Watchdog, exit_with_parent

T = TypeVar("T")


def train(config: Config, plan: Plan, world: World) -> str:
    """Train a run to its last step, from the checkpoint to resume if there is one. Collective.

    Args:
        config: The run's configuration.
        plan: The run's plan for this world size.
        world: This rank.

    Returns:
        The name of the signal that stopped the run; empty if it reached its last step, or if
        `evaluation.patience` ended it.
    """
    output = config.output_dir
    log = RunDirectory(output).rank_log(world.rank)
    # A single process without a launcher may outlive the shell that started it.
    launched = world.size > 1 or "TORCHELASTIC_RUN_ID" in os.environ
    if launched:
        exit_with_parent()
    with (
        deterministic_algorithms(config.run.deterministic),
        fp32_products(config.run.allow_tf32, world.device),
        only_job(output, world),
        StopSignal(launched, partial(_ended_at_once, output, world)) as signal,
        failure_marker(output, world),
        Watchdog(log, config.run.timeout_seconds, partial(report_hang, output, world)) as watchdog,
        contextlib.ExitStack() as at_end,
    ):
        coordinator = StopCoordinator(world, signal, watchdog, config.checkpoint.every_minutes)
        settings = deepspeed_config(config, plan.accumulation, plan.shape.padded_parameters, world.size)
        trainer = build_trainer(config, plan, world, settings, coordinator)
        start = starting_point(config, trainer.store)
        if start:
            trainer.resume(start)
            logger.info("resumed from %s", start)
            trainer.profile.warn_if_missed(trainer.step)
        origin = initialise_weights(config, world, trainer) if not start else {}
        plan = trainer.plan  # from the checkpoint on
        world.on_main(partial(write_run_files, output, config, plan, settings, origin, trainer.step))
        if world.is_main:
            trainer.store.remove_leftovers()
            clear_ended(output)
        if trainer.commit_calls:
            at_end.callback(trainer.commit_calls.close)
            if world.is_main and trainer.saved_step:
                trainer.commit_calls.resume(trainer.saved_step)
        trainer.best.begin(world, trainer.step, trainer.evaluation_done, trainer.saved_best)
        if trainer.stops_early:
            trainer.end_early()
            finish_commit_calls(trainer, "")
            return ""
        if trainer.step >= trainer.last_step and trainer.evaluation_done:
            longer = "run.stop_after_steps" if trainer.last_step < plan.total_steps else "schedule.total_steps"
            logger.info("%s: all %d steps are done; raise %s to go on", output, trainer.last_step, longer)
            finish_commit_calls(trainer, "")
            return ""
        logger.info("%s", summary(config, plan, world))
        stopped = trainer.fit()
        finish_commit_calls(trainer, stopped)
        return stopped


def finish_commit_calls(trainer: Trainer, stopped: str) -> None:
    """Wait for the calls of `checkpoint.on_commit` after the run's end, when everything is saved. Collective.

    Args:
        trainer: The trainer.
        stopped: Name of the signal that stopped the run, if any. Another start will follow then, so a failed call
            is only a warning.

    Raises:
        RunError: A call failed, or a signal ended the wait.
    """
    if not trainer.commit_calls:
        return
    wait = partial(trainer.coordinator.wait_until, interruptible=not stopped)
    unfinished = trainer.commit_calls.finish(trainer.world, wait)
    if not unfinished:
        if trainer.world.is_main:
            trainer.store.prune(trainer.step)  # what was kept only for the calls
        return
    text = f"{unfinished}; all checkpoints are complete, and the next start makes these calls again"
    if not stopped:
        raise RunError(text)
    logger.warning("%s", text)


def _ended_at_once(output: Path, world: World, signal: str) -> None:
    """Record that a second signal ends this rank."""
    if RunDirectory(output).stopped_marker.exists():  # everything is saved: only a call of on_commit is cut off
        return
    reason = RunError(f"a second signal ({signal}) ended it before everything was saved")
    write_failed(output, world.rank, reason)


def build_trainer(
    config: Config, plan: Plan, world: World, settings: dict[str, Any], coordinator: StopCoordinator
) -> Trainer:
    """Build the trainer and its parts. Collective."""
    tokenizer = on_each_host(world, partial(Tokenizer.load, plan.tokenizer))
    require_described_tokenizer(plan, tokenizer)
    engine = Engine(build_model(config, plan, world.device), config, settings, world)
    best = BestSoFar(config)
    on_commit = config.checkpoint.on_commit
    commit_calls = CommitCalls(on_commit, config.output_dir) if on_commit else None
    return Trainer(
        config,
        plan,
        world,
        engine,
        build_batcher(config, plan),
        build_hooks(config, plan, Evaluator(config, plan, world, engine, tokenizer), best),
        checkpoint_store(config, plan, world, tokenizer, commit_calls),
        best,
        Meter(world, flops_per_token(plan.shape, plan.sequence_length), device_peak_flops(config, world)),
        build_profile(config, world),
        coordinator,
        commit_calls,
    )


def require_described_tokenizer(plan: Plan, tokenizer: Tokenizer) -> None:
    """Check that the manifests of all datasets have the tokenizer's vocabulary size and end-of-text id.

    In manifests of version 0.1, no hash protects these.

    Raises:
        UserError: A manifest disagrees with the tokenizer.
    """
    for dataset in plan.manifests:
        said = dataset.vocab_size, dataset.end_of_text_id
        if said != (tokenizer.vocab_size, tokenizer.end_of_text_id):
            raise UserError(
                f"{dataset.directory}: its manifest says vocab_size {said[0]} and end_of_text_id {said[1]}, its "
                f"tokenizer has {tokenizer.vocab_size} and {tokenizer.end_of_text_id}; copy the dataset again, "
                "or preprocess the corpus again"
            )


def build_profile(config: Config, world: World) -> Profile:
    """Build the profiler that traces the steps of `monitoring.profile`."""
    wanted = config.monitoring.profile
    steps = range(wanted.start, wanted.start + wanted.steps) if wanted else range(0)
    directory = RunDirectory(config.output_dir).profile / checkpoint_name(steps.start)
    return Profile(directory / f"rank-{world.rank:05d}.pt.trace.json.gz", steps)


def build_batcher(config: Config, plan: Plan) -> MixtureBatcher:
    """Build the batcher for the windows of the training sets."""
    return MixtureBatcher(
        [
            MicroBatcher(
                TokenStream.open(each.dataset, "train", shuffled=True), each.windows, config.data.loss_on
            )
            for each in plan.datasets
        ]
    )


def build_model(config: Config, plan: Plan, device: torch.device) -> LanguageModel:
    """Build the model, initialised from the run's seed: the same on every rank.

    Raises:
        UserError: `model.compile` or `model.attention` needs something that this device or host lacks.
    """
    if config.model.attention == "varlen":
        require_varlen(device)
    if config.model.compile:
        require_compiler(device)
    if config.model.attention == "flash_attention_2":
        require_flash_attention(device, config.run.deterministic)
    return LanguageModel(
        plan.shape,
        plan.end_of_text_id,
        dropout=config.model.dropout,
        attention=config.model.attention,
        activation_checkpointing=config.model.activation_checkpointing,
        seed=config.run.seed,
        isolate=config.data.document_boundaries == "isolate",
        loss=config.model.loss,
        compile=config.model.compile,
    )


def checkpoint_store(
    config: Config, plan: Plan, world: World, tokenizer: Tokenizer, listener: CommitListener | None = None
) -> CheckpointStore:
    """Build the store of the run's checkpoints."""

    def write_model_files(directory: Path) -> None:
        write_huggingface_config(directory, plan.shape, plan.end_of_text_id, config.model.dropout)
        tokenizer.save(directory)

    return CheckpointStore(
        RunDirectory(config.output_dir).checkpoints,
        world,
        config.checkpoint.keep_last,
        config.checkpoint.keep_every,
        plan.shape.vocab_size,
        write_model_files,
        listener,
    )


def starting_point(config: Config, store: CheckpointStore) -> Path | None:
    """Return the checkpoint to resume from by `checkpoint.resume`; None starts a new run. Collective.

    Raises:
        UserError: The named checkpoint is invalid or a newer one exists, `never` would overwrite checkpoints, or
            no existing checkpoint is valid.
    """
    resume = config.checkpoint.resume
    newest, rejected_checkpoints = store.newest()
    # Rank 0 reads `latest`, which another job may replace meanwhile.
    named = store.world.on_main(partial(named_checkpoint, resume))
    if named:
        if fault := store.fault(named):
            raise UserError(f"checkpoint.resume: {named} is not a complete checkpoint: {fault}; name another")
        if newest and step_of(newest) > TrainerState.read(named).step:
            raise UserError(
                f"checkpoint.resume: {store.directory} holds a newer checkpoint ({newest.name}), which the next "
                "start would resume from; move it away, or set run.output_dir to a new directory"
            )
        return named
    for reason in rejected_checkpoints:
        logger.warning("skipped checkpoint %s", reason)
    if resume == "latest" and not newest and not rejected_checkpoints:
        raise UserError(
            f"checkpoint.resume: latest, but {store.directory} holds no checkpoint; set auto to start a run"
        )
    if resume == "never" and newest:
        raise UserError(
            f"checkpoint.resume: never, but {store.directory} holds checkpoints ({newest.name}); "
            "set run.output_dir to a new directory, or resume to auto"
        )
    if rejected_checkpoints and not newest:
        raise UserError(
            f"no checkpoint in {store.directory} is complete; move that directory away to start over, "
            "or name one with checkpoint.resume"
        )
    return newest


def initialise_weights(config: Config, world: World, trainer: Trainer) -> dict[str, str]:
    """Load the weights of `model.init_from`, if set, and return the record of their origin. Collective."""
    if not config.model.init_from:
        return {}
    origin = load_initial_weights(config.model.init_from, world, trainer.engine.state)
    logger.info("initialised with the weights of %s", origin["path"])
    return origin


def build_hooks(config: Config, plan: Plan, evaluator: Evaluator, best: BestSoFar) -> Hooks:
    """Build the hooks: the recorder, the evaluator and the best so far, then those of `run.hooks`."""
    run = RunDirectory(config.output_dir)
    trackers: dict[str, Callable[[], Tracker]] = {
        name: partial(_instance, TRACKERS.get, name) for name in config.monitoring.trackers
    }
    if config.monitoring.tensorboard:
        trackers["TensorBoard"] = partial(_tensorboard, run.tensorboard)
    recorder = MetricsRecorder(config.output_dir, trackers, hyperparameters(config, plan))
    users = {name: partial(_instance, HOOKS.get, name) for name in config.run.hooks}
    return Hooks([recorder, evaluator, best], users)


def _instance(find: Callable[[str], Callable[[], T]], name: str) -> T:
    return find(name)()


def _tensorboard(directory: Path) -> Tracker:
    from gpt2dist.monitoring.tensorboard import TensorBoard  # imported only where it is used: on rank 0

    return TensorBoard(directory)


def write_run_files(
    output: Path, config: Config, plan: Plan, settings: dict[str, Any], origin: dict[str, str], step: int
) -> None:
    """Record this start of the run, and log what it changes.

    Writes starts/NNN, config.yaml, deepspeed.json and environment.json.

    Args:
        output: The run directory.
        config: The run's configuration.
        plan: The run's plan.
        settings: The configuration given to DeepSpeed.
        origin: Record of the initial weights; empty if the run resumes or starts with random ones.
        step: Optimizer steps done.

    Raises:
        UserError: A file cannot be written.
    """
    run, before = RunDirectory(output), starts.last(output)
    datasets = {str(each.dataset.directory): each.dataset.fingerprint for each in plan.datasets}
    manifests = {str(dataset.directory): dataset.sha256 for dataset in plan.manifests if dataset.sha256}
    facts = describe() | {"world_size": plan.world_size, "total_steps": plan.total_steps, "datasets": datasets}
    facts |= {"dataset_manifests": manifests}
    origin = origin or starts.recorded_origin(output)
    facts |= {"init_from": origin} if origin else {}
    begins = asdict(plan.batch_sizes.origin)
    facts |= {"origin": begins} if plan.batch_sizes.origin != Origin() else {}
    changes = _log_changes(before, config, facts)
    try:
        starts.record(output, config, facts, step, changes)
        atomic_io.write_text(run.config, config.to_yaml())
        atomic_io.write_json(run.deepspeed_config, settings)
        atomic_io.write_json(run.environment, facts)
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        raise UserError(
            f"run.output_dir: {output}: the record of this start cannot be written ({error.strerror}{place}); "
            "free space there or make it writable, or set it to another directory"
        ) from error


def _log_changes(before: RunDirectory, config: Config, facts: dict[str, Any]) -> tuple[starts.Change, ...]:
    """Log what differs from the last start, a line per key, and return it."""
    try:
        changes = starts.changes_since(before, config, facts)
    except UserError as error:
        logger.warning("the changes since the last start are unknown: %s", error)
        return ()
    if changes:
        listed = "".join(f"\n  {change}" for change in changes)
        logger.info("changed since the last start (%s):%s", before.config, listed)
    return changes


def device_peak_flops(config: Config, world: World) -> float | None:
    """Return the peak FLOP/s of this rank's device at the run's precision; None on a CPU, or if it is unknown."""
    if world.device.type != "cuda":
        return None
    name, data_type = (
        torch.cuda.get_device_name(world.device),
        matmul_type(config.precision, config.run.allow_tf32),
    )
    peak = peak_flops(name, data_type)
    if peak is None:
        logger.info("no MFU: the peak %s FLOP/s of %s are not known", data_type, name)
    return peak


def summary(config: Config, plan: Plan, world: World) -> str:
    """Return a two-line summary of the run."""
    batch = config.batch
    passes = [f"{plan.epochs(each):.2f} epochs" for each in plan.datasets]
    if len(passes) > 1:
        passes = [f"{text} of {each.name}" for text, each in zip(passes, plan.datasets, strict=True)]
    computed = config.precision + ", TF32" * (config.run.allow_tf32 and world.device.type == "cuda")
    computed += ", deterministic" * config.run.deterministic
    return (
        f"{config.run.name}: {plan.shape.parameters:,} parameters, {plan.total_steps:,} steps of "
        f"{batch.global_batch_size} windows ({batch.micro_batch_size} × {plan.accumulation} accumulated × "
        f"{world.size} ranks) of {plan.sequence_length} tokens, stride {plan.stride}, {', '.join(passes)}\n"
        f"ZeRO stage {config.zero.stage}, {computed}, on {world.device.type}; writing {config.output_dir}"
    )
