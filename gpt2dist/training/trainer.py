"""The training loop, and what happens around a step: logging, validation, samples, checkpoints."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2dist.config import Config
from gpt2dist.data.loader import Loader, MicroBatcher, MixtureBatcher, StepBatch
from gpt2dist.data.stream import TokenStream
from gpt2dist.data.tokenizer import Tokenizer
from gpt2dist.data.windows import Windows
from gpt2dist.distributed import World
from gpt2dist.errors import RunError, UserError
from gpt2dist.evaluation.perplexity import Score, score, window_nll
from gpt2dist.generation import Sampling, generate
from gpt2dist.monitoring.meter import Meter
from gpt2dist.monitoring.metrics import Metrics, Value
from gpt2dist.monitoring.progress import Progress
from gpt2dist.plan import Plan, ValidationSet
from gpt2dist.training.checkpoint import CheckpointStore, TrainerState, read_trainer_state
from gpt2dist.training.engine import Engine, StepResult
from gpt2dist.training.same_run import data_order, datasets_of, require_same_run
from gpt2dist.training.schedule import learning_rate

PROBE_TOLERANCE = {"fp32": 1e-4}
"""Relative change of the probe loss that a load may show; a rounding of weights to 16 bits shows more."""
PROBE_TOLERANCE_16_BIT = 2e-2


class Trainer:
    """Trains a model by a plan.

    Args:
        config: The run.
        plan: What it implies.
        world: This rank.
        engine: The model under DeepSpeed.
        batcher: Windows of the training sets.
        tokenizer: Turns prompts into tokens and samples into text.
        store: The checkpoints of the run.
        meter: Measures the steps.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        world: World,
        engine: Engine,
        batcher: MixtureBatcher,
        tokenizer: Tokenizer,
        store: CheckpointStore,
        meter: Meter,
    ):
        self.config = config
        self.plan = plan
        self.world = world
        self.engine = engine
        self.batcher = batcher
        self.tokenizer = tokenizer
        self.store = store
        self.meter = meter
        # Now, since a character that the tokenizer does not know is better told before the first step.
        self.prompts = [self._encode(prompt) for prompt in config.monitoring.samples.prompts]
        self.step = 0  # optimizer steps done
        self.consumed_samples = 0  # windows
        self.consumed_tokens = 0  # targets
        self.skipped_steps = 0
        self.last_step = min(plan.total_steps, config.run.stop_after_steps or plan.total_steps)

    def fit(self, metrics: Metrics | None) -> None:
        """Trains from where the run stands to its last step.

        Args:
            metrics: Where rank 0 records; None on the others.
        """
        self.metrics = metrics
        every = self.config
        loader = self._loader()
        try:
            with Progress("train", self.last_step, "step", initial=self.step, enabled=self.world.is_main) as bar:
                self.bar = bar
                while self.step < self.last_step:
                    with self.meter.waiting():
                        batch = next(loader)
                    result = self._train_step(batch)
                    ending = self.step == self.last_step
                    if ending or self._due(every.monitoring.log_every_steps):
                        self._log(result)
                    with self.meter.paused():
                        if self.step == self.plan.total_steps or self._due(every.evaluation.every_steps):
                            self._evaluate()
                        if self._due(every.monitoring.samples.every_steps):
                            self._sample()
                        if ending or self._due(every.checkpoint.every_steps):
                            self._save()
                    bar.advance()
        finally:
            loader.close()

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint.

        Raises:
            UserError: The run is about other data, or other windows, than the checkpoint.
            RunError: The loaded model does not reproduce the loss that was stored.
        """
        require_same_run(path, read_trainer_state(path), self.config, self.plan)
        state = self.store.load(path, self.engine.state)
        self.engine.load_scaler_state(state.loss_scaler)
        self.step = state.step
        self.consumed_samples = state.consumed_samples
        self.consumed_tokens = state.consumed_tokens
        self.skipped_steps = state.step - state.updates
        self._check_probe(path, state)

    def _train_step(self, batch: StepBatch[list[Tensor]]) -> StepResult:
        # Every draw of a step is a function of (seed, step, rank): a resumed run draws the same.
        seeds = (self.config.run.seed, self.step, self.world.rank)
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> np.uint64(1)))
        result = self.engine.train_step(batch, self._lr(self.step))
        self.step += 1
        self.consumed_samples += batch.samples
        self.consumed_tokens += batch.targets
        self.skipped_steps += result.skipped
        self.meter.add(result.nll, batch.targets, batch.samples * self.plan.sequence_length)
        return result

    def _log(self, result: StepResult) -> None:
        measured = self.meter.take()
        values: dict[str, Value] = {
            **measured,
            "train/lr": self._lr(self.step - 1),
            "train/grad_norm": float(result.grad_norm),
            "train/loss_scale": self.engine.loss_scale,
            "train/skipped_steps": self.skipped_steps,
            **self._epochs(),
            "progress/tokens": self.consumed_tokens,
        }
        self._record(values)
        loss, rate = float(measured["train/loss"]), float(measured["throughput/tokens_per_second"])
        self.bar.advance(0, loss=f"{loss:.4f}", lr=f"{values['train/lr']:.2e}", tokens_per_s=f"{rate:,.0f}")
        self._check_finite(loss)

    def _epochs(self) -> dict[str, Value]:
        """Passes over the training set, or over each of several."""
        epochs = self.plan.mixture.epochs(self.consumed_samples)
        if len(epochs) == 1:
            return {"train/epoch": epochs[0]}
        return {f"train/epoch/{each.name}": done for each, done in zip(self.plan.datasets, epochs, strict=True)}

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is {loss} at step {self.step}: training has diverged; lower optimizer.lr or lengthen "
                "schedule.warmup_steps, and start again: the run goes on from its newest checkpoint"
            )

    def _evaluate(self) -> None:
        results = {entry.name: self._score(entry) for entry in self.plan.validation}
        for name, result in results.items():
            values = {key: getattr(result, key) for key in ("loss", "perplexity", "bits_per_byte")}
            tagged: dict[str, Value] = {f"eval/{name}/{key}": value for key, value in values.items()}
            self._record(tagged | {"progress/tokens": self.consumed_tokens})
            self.bar.say(
                f"step {self.step}: {name} loss {result.loss:.4f}, perplexity {result.perplexity:.3f}, "
                f"{result.bits_per_byte:.4f} bits per byte"
            )
        if self.world.is_main and results:
            report = {name: _as_json(result) for name, result in results.items()}
            path = self.config.output_dir / "eval" / f"step-{self.step:08d}.json"
            path.write_text(json.dumps(report, indent=1) + "\n")

    def _score(self, entry: ValidationSet) -> Score:
        stream = TokenStream.open(entry.dataset, entry.split)
        windows = Windows(len(stream), self.plan.sequence_length, self.plan.evaluation_stride)
        shown = Progress(
            f"evaluate {entry.name}", windows.targets, "token", 0, True, self.world.is_main, leave=False
        )
        with shown as bar:
            nll, targets = score(
                self.engine.logits,
                stream,
                windows,
                self.config.evaluation.batch_size,
                self.world.rank,
                self.world.size,
                self.world.sum,
                bar.advance,
            )
        totals = entry.dataset.totals(entry.split)
        return Score(nll, targets, totals.bytes, totals.words, len(windows))

    def _encode(self, prompt: str) -> list[int]:
        try:
            return self.tokenizer.encode(prompt).tolist()
        except UserError as error:
            raise UserError(f"monitoring.samples.prompts: {error}") from error

    def _sample(self) -> None:
        samples = self.config.monitoring.samples
        how = Sampling(max_new_tokens=samples.max_new_tokens, top_k=50, seed=self.config.run.seed)
        for number, (prompt, tokens) in enumerate(zip(samples.prompts, self.prompts, strict=True)):
            (new,) = generate(
                self.engine.logits,
                tokens,
                how,
                self.tokenizer.end_of_text_id,
                self.plan.shape.context_length,
                run_on=True,
            )
            self._record({f"samples/{number}": prompt + self.tokenizer.decode(new)})

    def _save(self) -> None:
        probe_loss = self._probe()
        self._check_finite(probe_loss)  # before weights that are lost push out those that are not
        path = self.store.save(
            self.engine.state,
            TrainerState(
                step=self.step,
                consumed_samples=self.consumed_samples,
                consumed_tokens=self.consumed_tokens,
                updates=self.engine.state.updates,
                lr=self._lr(self.step - 1),
                loss_scaler=self.engine.scaler_state(),
                probe_loss=probe_loss,
                datasets=datasets_of(self.plan),
                tokenizer=self.plan.tokenizer_fingerprint,
                order=data_order(self.config, self.plan),
                world_size=self.world.size,
                zero_stage=self.config.zero.stage,
                precision=self.config.precision,
            ),
        )
        self.bar.say(f"step {self.step}: saved {path}")

    def _probe(self) -> float:
        """Mean loss of the first windows of the first training set; the same on every rank. Collective."""
        first = self.batcher.batchers[0]
        batcher = MicroBatcher(first.stream, first.windows, "new")
        indices = np.arange(min(len(first.windows), self.config.batch.micro_batch_size))
        targets = int(batcher.counted(indices).sum())
        return window_nll(self.engine.logits, batcher, indices).sum().item() / targets

    def _check_probe(self, path: Path, state: TrainerState) -> None:
        loss = self._probe()
        allowed = PROBE_TOLERANCE.get(self.config.precision, PROBE_TOLERANCE_16_BIT)
        if state.precision != self.config.precision:
            allowed = PROBE_TOLERANCE_16_BIT
        if not abs(loss - state.probe_loss) <= allowed * state.probe_loss:
            raise RunError(
                f"{path} was loaded, yet its model gives a loss of {loss:.6f} on the probe where "
                f"{state.probe_loss:.6f} was stored: do not train on; resume from an older checkpoint"
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

    def _due(self, every: int | None) -> bool:
        """Whether what happens every so many steps happens after this one."""
        return every is not None and self.step % every == 0

    def _record(self, values: dict[str, Value]) -> None:
        if self.metrics:
            self.metrics.write(self.step, time.time(), values)


def _as_json(result: Score) -> dict[str, Any]:
    measures = ("nll_sum", "targets", "loss", "perplexity", "bits_per_byte", "bytes", "word_perplexity", "words")
    return {key: getattr(result, key) for key in measures}
