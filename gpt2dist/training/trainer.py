"""The training loop, with logging, evaluation, saving and stopping."""

import contextlib
import dataclasses
import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.checkpoint.store import CheckpointStore
from gpt2dist.config import Config
from gpt2dist.distributed.hosts import on_each_host
from gpt2dist.distributed.world import World, lost_peers
from gpt2dist.errors import RunError, UserError
from gpt2dist.loading.batch_ramp import Origin
from gpt2dist.loading.loader import Loader, MixtureBatcher, StepBatch
from gpt2dist.model.numerics import fp32_products
from gpt2dist.monitoring.logs import logger
from gpt2dist.monitoring.meter import Meter, StepRecord
from gpt2dist.monitoring.profile import Profile
from gpt2dist.monitoring.progress import Progress
from gpt2dist.plan import Plan
from gpt2dist.run.end_markers import write_finished, write_stopped
from gpt2dist.run.metrics_file import FileLostError, Value
from gpt2dist.training.best import BestSoFar
from gpt2dist.training.continuation import rate_note
from gpt2dist.training.engine import Engine
from gpt2dist.training.hooks import Hooks
from gpt2dist.training.lr_schedule import learning_rate
from gpt2dist.training.on_commit import CommitCalls
from gpt2dist.training.resume_checks import (
    check_probe_loss,
    check_resumable,
    data_order,
    datasets_of,
    probe_loss,
)
from gpt2dist.training.stop import StopCoordinator, StopRequestedError, described


class Trainer:
    """Training loop of a run.

    Args:
        config: The run's configuration.
        plan: The run's plan.
        world: This rank.
        engine: The model under DeepSpeed.
        batcher: Windows of the training sets.
        hooks: Called after steps, logs, evaluations and saves.
        store: Checkpoints of the run.
        best: Follows the metric of `checkpoint.keep_best`; it is one of the hooks.
        meter: Measures the steps.
        profile: Traces some of the steps.
        coordinator: Exchanges requests to stop or save.
        commit_calls: The calls of `checkpoint.on_commit`, if it is set.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        world: World,
        engine: Engine,
        batcher: MixtureBatcher,
        hooks: Hooks,
        store: CheckpointStore,
        best: BestSoFar,
        meter: Meter,
        profile: Profile,
        coordinator: StopCoordinator,
        commit_calls: CommitCalls | None = None,
    ):
        self.config = config
        self.plan = plan
        self.world = world
        self.engine = engine
        self.batcher = batcher
        self.hooks = hooks
        self.store = store
        self.best = best
        self.meter = meter
        self.profile = profile
        self.coordinator = coordinator
        self.commit_calls = commit_calls
        self.step = 0  # optimizer steps done
        self.consumed_samples = 0  # windows
        self.consumed_tokens = 0  # targets
        self.skipped_steps = 0
        self.skipped_in_a_row = 0
        self.evaluation_done = True  # False if a stop interrupted the evaluations due after this step
        self.saved_step = 0
        self.restarted: dict[str, int] = {}  # see TrainerState.restarted
        self.saved_best: dict[str, Any] = {}  # TrainerState.best of the checkpoint of this run that was loaded
        self.last_step = min(plan.total_steps, config.run.stop_after_steps or plan.total_steps)
        self.bar = Progress("train", None, "step", enabled=False)  # until `fit` shows one

    def fit(self) -> str:
        """Train from the current step to the last one, or until asked to stop. Collective.

        Returns:
            The name of the signal that stopped the run; empty if it reached its last step, or if
            `evaluation.patience` ended it.

        Raises:
            UserError: A tracker or a hook could not start.
            HookError: A hook of `run.hooks` failed on this rank.
            RunError: Training has diverged, or a checkpoint could not be written.
        """
        shown = Progress("train", self.last_step, "step", initial=self.step, enabled=self.world.is_main)
        running = self.hooks.running(self)
        # A lost rank is noticed innermost, so that the monitor leaves the time to close the rest.
        with running, shown as self.bar, contextlib.closing(self._loader()) as loader, self.profile, lost_peers():
            try:
                if not self.evaluation_done:
                    self._evaluate()
                    if self._is_best():
                        self._save()
                while self.step < self.last_step and not self.stops_early:
                    with self.meter.paused():
                        self.profile.before_step(self.step + 1)
                    with self.meter.waiting():
                        batch = next(loader)
                    self._train_step(batch)
                    if self.step == self.last_step or self.is_due(self.config.monitoring.log_every_steps):
                        self._log()
                    with self.meter.paused():
                        self._evaluate()
                        self._save_if_due()
                    self.bar.advance()
                self._report_saved(self.store.finish())
                self.coordinator.close()
                if self.stops_early:
                    self.end_early()
            except StopRequestedError as stop:
                self._leave(str(stop))
                return str(stop)
        return ""

    def is_due(self, every: int | None) -> bool:
        """Return whether an action with this interval in steps is due after this step; None is never due."""
        return every is not None and self.step % every == 0

    @property
    def stops_early(self) -> bool:
        """Whether `evaluation.patience` ends the run after this step."""
        return self.best.exhausted and self.evaluation_done and self.step < self.plan.total_steps

    def end_early(self) -> None:
        """Log what is left, and write finished.json. Everything is saved. Collective."""
        if self.meter.steps:
            self._log()
        waited, patience = self.best.waited, self.config.evaluation.patience
        reason = (
            f"{self.best.tag} has not improved in {waited} evaluation{'s' * (waited != 1)} "
            f"(evaluation.patience: {patience}); {self.best}"
        )
        if self.world.is_main:
            write_finished(self.config.output_dir, reason, self.step, self.plan.total_steps)
        logger.info(
            "ended at step %d of %d, with everything saved: %s. Raise or remove evaluation.patience to go on",
            self.step,
            self.plan.total_steps,
            reason,
        )

    def poll(self) -> None:
        """Exchange stop requests, as `StopCoordinator.poll` does. Collective."""
        self.coordinator.poll()

    def info(self, text: str) -> None:
        """Print a line above the progress bar of rank 0."""
        self.bar.info(text)

    def resume(self, path: Path) -> None:
        """Resume from a checkpoint. Collective.

        Raises:
            UserError: The run's model or tokenizer differs from the checkpoint's; or its data, batch or optimizer
                does, and `checkpoint.accept_changes` does not accept it; or it is to end before the checkpoint.
            RunError: The loaded model does not reproduce the stored loss.
        """
        saved = on_each_host(self.world, partial(TrainerState.read, path))
        self.plan, changed = check_resumable(path, saved, self.config, self.plan)
        self.last_step = min(self.plan.total_steps, self.config.run.stop_after_steps or self.plan.total_steps)
        other_optimizer = "optimizer" in self.config.checkpoint.accept_changes
        state = self.store.load(path, self.engine.state, other_optimizer)
        if fresh := [name for name, at in state.restarted.items() if saved.restarted.get(name) != at]:
            logger.info("the optimizer state of %d parameters starts from zero: %s", len(fresh), ", ".join(fresh))
        try:
            self.engine.load_scaler_state(state.loss_scaler)
            if not changed & {"data", "batch"}:  # losses and norms of other batches are no measure of a spike
                self.engine.spike_detector.load_state(state.history)
        except ValueError as error:
            raise UserError(f"{path}/trainer_state.json: {error}; resume from another checkpoint") from None
        self.step = state.step
        self.saved_step = state.step if path.resolve().parent == self.store.directory.resolve() else 0
        self.consumed_samples = state.consumed_samples
        self.consumed_tokens = state.consumed_tokens
        self.skipped_steps = state.step - state.updates
        self.evaluation_done = state.evaluation_done
        self.restarted = state.restarted
        self.saved_best = state.best if self.saved_step else {}
        self._note_rate(state)
        if "data" not in changed:  # the probe is of the training data
            check_probe_loss(path, state, self.config.precision, self._probe())

    def _note_rate(self, state: TrainerState) -> None:
        """Say how the learning rate continues, if it is not as before."""
        text, jumps = rate_note(state, self.config, self.plan)
        if text:
            logger.log(logging.WARNING if jumps else logging.INFO, "%s", text)

    def _train_step(self, batch: StepBatch[list[Tensor]]) -> None:
        # Random draws in a step depend only on (seed, step, rank), so that a resumed run repeats them.
        seeds = (self.config.run.seed, self.step, self.world.rank)
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> np.uint64(1)))
        result = self.engine.train_step(batch, self._lr(self.step), self.poll, self.meter.forward)
        self.step += 1
        self.consumed_samples += batch.samples
        self.consumed_tokens += batch.targets
        tokens = batch.samples * self.plan.sequence_length
        self.meter.add(result.nll, result.grad_norm, result.skipped, batch.targets, tokens)
        self.hooks.after_step(self, result)

    def _log(self) -> None:
        """Log the steps since the last call; stop the run if too many in a row were skipped."""
        measured, steps = self.meter.take()
        self.coordinator.rank_times.note(self.meter.own_times)
        lr = self._lr(self.step - 1)
        self._note_skipped(steps)
        values: dict[str, Value] = {
            **measured,
            "train/lr": lr,
            **{f"train/lr_{name}": rate for name, rate in self.engine.learning_rates(lr).items()},
            "train/grad_norm": steps[-1].grad_norm,
            "train/loss_scale": self.engine.loss_scale,
            "train/skipped_steps": self.skipped_steps,
            **self.coordinator.rank_times.take(),
            **self._epochs(),
            "progress/tokens": self.consumed_tokens,
        }
        if self.commit_calls:
            values["checkpoint/failed_calls"] = self.commit_calls.failures
        try:
            self.hooks.after_log(self, values)
        except FileLostError as lost:  # only rank 0 notices it
            if self.step == self.last_step:
                raise
            self.coordinator.fail(str(lost))
        rate = measured.get("throughput/tokens_per_second")  # missing after only the first step of this start
        speed = {"tokens_per_s": f"{rate:,.0f}"} if rate else {}
        self.bar.advance(0, loss=f"{measured['train/loss']:.4f}", lr=f"{lr:.2e}", **speed)
        if self.skipped_in_a_row > self.config.stability.max_skipped_steps:
            self._give_up()

    def _note_skipped(self, steps: list[StepRecord]) -> None:
        """Count the skipped steps and warn about each."""
        for number, each in enumerate(steps, self.step - len(steps) + 1):
            self.skipped_steps += each.skipped
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if each.skipped else 0
            if each.skipped and self.config.precision != "fp16":  # where overflows adjust the loss scale
                self.bar.warn(
                    f"step {number} was skipped: loss {each.loss:.4f}, "
                    f"gradient norm {each.grad_norm:.4g}; its documents: "
                    f"gpt2dist trace {self.config.output_dir} --step {number}"
                )

    def _give_up(self) -> None:
        """Save and stop a run that has diverged; its weights are those of the last good step."""
        older = self.store.has_any()
        self._save()
        self._report_saved(self.store.finish())
        start = "resume from an older checkpoint with checkpoint.resume" if older else "start a new run"
        raise RunError(
            f"{self.skipped_in_a_row} steps in a row were skipped, up to step {self.step} (loss or gradient not "
            f"finite, or beyond stability.spike_sigma): training has diverged; everything is saved. Lower "
            f"optimizer.lr or lengthen schedule.warmup_steps, and {start} in another run.output_dir"
        )

    def _epochs(self) -> dict[str, Value]:
        """Return the passes over the training set, or over each of several."""
        epochs = self.plan.mixture.epochs(self.consumed_samples - self.plan.batch_sizes.origin.data_from)
        if len(epochs) == 1:
            return {"train/epoch": epochs[0]}
        return {f"train/epoch/{each.name}": done for each, done in zip(self.plan.datasets, epochs, strict=True)}

    def _evaluate(self) -> None:
        """Run the evaluations that are due after this step."""
        self.evaluation_done = False  # stays so in the checkpoint if a stop interrupts them
        with self.coordinator.at_every_poll():
            self.hooks.evaluate(self)
        self.evaluation_done = True

    def _save_if_due(self) -> None:
        self._report_saved(self.store.finish_if_written())
        ending = self.step == self.last_step or self.stops_early or self._is_best()
        if ending or self.coordinator.save_due or self.is_due(self.config.checkpoint.every_steps):
            self._save()

    def _save(self) -> None:
        """Save the current state; with `checkpoint.asynchronous`, write it in the background."""
        self._report_saved(self.store.finish())
        if self.step == self.saved_step:
            if self._is_best():  # a stop interrupted its evaluation
                self.store.mark_best(self.step)
            return
        self.store.start(self.engine.state, self._state(), self._is_best())
        self.saved_step = self.step
        self.coordinator.saved()
        if not self.config.checkpoint.asynchronous:
            self._report_saved(self.store.finish())

    def _is_best(self) -> bool:
        """Return whether the model is the best so far, by the evaluation after this step."""
        return self.evaluation_done and self.best.step == self.step

    def _report_saved(self, path: Path | None) -> None:
        if path:
            self.coordinator.rank_times.note({"save": self.store.write_seconds})
            self.info(f"saved {path}")
            self.hooks.after_save(self, path)

    def _state(self) -> TrainerState:
        probe = self._probe()
        if not math.isfinite(probe):  # so that a diverged checkpoint cannot evict a good one
            start = "resumes from its newest checkpoint"
            if not self.store.has_any():
                start = "has no checkpoint yet, and starts at its first step"
            raise RunError(
                f"the loss is {probe} at step {self.step}: training has diverged; lower optimizer.lr or lengthen "
                f"schedule.warmup_steps, and start again: the run {start}"
            )
        origin = self.plan.batch_sizes.origin
        return TrainerState(
            step=self.step,
            consumed_samples=self.consumed_samples,
            consumed_tokens=self.consumed_tokens,
            updates=self.engine.state.updates,
            evaluation_done=self.evaluation_done,
            lr=self._lr(self.step - 1),
            loss_scaler=self.engine.scaler_state(),
            history=self.engine.spike_detector.state(),
            probe_loss=probe,
            datasets=datasets_of(self.plan),
            tokenizer=self.plan.tokenizer_fingerprint,
            order=data_order(self.config, self.plan),
            world_size=self.world.size,
            zero_stage=self.config.zero.stage,
            precision=self.config.precision,
            optimizer=self.config.optimizer.kind,
            origin={} if origin == Origin() else dataclasses.asdict(origin),
            restarted=self.restarted,
            best=self.best.state(),
        )

    def _probe(self) -> float:
        with fp32_products(False, self.world.device):  # comparable, whatever `run.allow_tf32` was at the save
            return probe_loss(self.engine.score, self.batcher)

    def _leave(self, signal: str) -> None:
        """Save everything and write stopped.json for the next start; the unfinished step is lost."""
        if self.meter.steps:
            self._log()
        self._save()
        self._report_saved(self.store.finish())
        if self.world.is_main:
            write_stopped(self.config.output_dir, signal, self.step, self.plan.total_steps)
        logger.info(
            "stopped by %s at step %d, with everything saved; start it again to resume",
            described(signal),
            self.step,
        )

    def _loader(self) -> Loader[list[Tensor]]:
        return Loader(
            self.plan.mixture,
            self.batcher,
            self.engine.stage,
            self.plan.batch_sizes,
            self.plan.micro_batch_size,
            self.world.rank,
            self.world.size,
            self.consumed_samples,
        )

    def _lr(self, step: int) -> float:
        peak, plan = self.config.optimizer.lr, self.plan
        return learning_rate(self.config.schedule, peak, plan.warmup_steps, plan.total_steps, step)
