"""Run DeepSpeed: train a step, run the model, read and write the whole state.

DeepSpeed partitions, communicates and casts. The schedule, the normalisation of the loss, clipping at stage 0
and everything that is saved are ours.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gpt2dist.config import Config
from gpt2dist.config.reading import flatten
from gpt2dist.distributed.deepspeed_import import deepspeed, start_quietly
from gpt2dist.distributed.deepspeed_probe import LOSS_SCALER, check_deepspeed
from gpt2dist.distributed.world import World
from gpt2dist.errors import Gpt2distError, UserError
from gpt2dist.loading.loader import MicroBatch, StepBatch
from gpt2dist.model.gpt2 import Cache, LanguageModel, named_parameters
from gpt2dist.training.optimizer import build_optimizer
from gpt2dist.training.skip_step import SpikeDetector
from gpt2dist.training.zero_state import PartitionedState


@dataclasses.dataclass
class _Step:
    """The step in progress.

    Attributes:
        targets: Targets of the global batch.
        nll: This rank's Σ nll so far.
        loss: Mean loss of the global batch; 0 without spike detection.
        grad_norm: Norm of the gradient at stage 0; None at other stages, where DeepSpeed computes it.
        skipped: 1 to skip the update, else 0; None until decided.
    """

    targets: int
    nll: Tensor
    loss: Tensor
    grad_norm: Tensor | None = None
    skipped: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class StepResult:
    """Result of an optimizer step.

    Attributes:
        nll: fp64 scalar on the device: this rank's Σ nll over its counted targets. Reading it synchronises.
        grad_norm: fp64 scalar on the device: global norm of the gradient before clipping.
        skipped: fp64 scalar on the device: 1 if the update was skipped, else 0.
    """

    nll: Tensor
    grad_norm: Tensor
    skipped: Tensor


class Engine:
    """A model that DeepSpeed trains.

    Args:
        model: The model, on any device.
        config: The run's configuration.
        deepspeed_config: Result of the function `deepspeed_config`.
        world: This rank.

    Raises:
        UserError: The device does not support the configured precision, DeepSpeed refuses its raw keys, or this
            version of DeepSpeed lacks what gpt2dist uses.
    """

    def __init__(self, model: LanguageModel, config: Config, deepspeed_config: dict[str, Any], world: World):
        _check_precision(config.precision, world.device)
        self.world = world
        self.config = config
        optimizer = build_optimizer(model.to(world.device), config.optimizer)
        start_quietly(world)
        with _raw_keys_refused(config):
            self._engine, *_ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=deepspeed_config, dist_init_required=False
            )
        check_deepspeed(self._engine, deepspeed.__version__)
        self._clip = config.optimizer.clip_grad_norm
        self.spike_detector = SpikeDetector(config.stability.spike_sigma, world.device)
        self.state = PartitionedState(self._engine, named_parameters(self._engine.module))
        self.state.materialise(updates=0)  # so that a run can be saved before its first update
        optimizer.should_skip = self._should_skip

    def train_step(
        self, batch: StepBatch[list[Tensor]], lr: float, before_each: Callable[[], None] = lambda: None
    ) -> StepResult:
        """Accumulate the gradients of a global batch and update the parameters once.

        The loss is Σ nll over all counted targets of the global batch / their number N. Each micro-batch
        contributes its sum × world_size / N, because DeepSpeed averages gradients over the ranks.

        Args:
            batch: This rank's micro-batches.
            lr: Learning rate of the update.
            before_each: Called before each micro-batch. If it raises, no parameter has changed.
        """
        self._engine.train()
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        zero = torch.zeros((), dtype=torch.float64, device=self.world.device)
        step = self._step = _Step(batch.targets, nll=zero.clone(), loss=zero)
        last = len(batch.micro_batches) - 1
        for number, micro_batch in enumerate(batch.micro_batches):
            before_each()
            self._engine.set_gradient_accumulation_boundary(number == last)
            # `non_blocking` makes copies from pinned memory asynchronous, and has no effect on others.
            loss = self._engine(
                "nll_sum", *(part.to(self.world.device, non_blocking=True) for part in micro_batch)
            )
            step.nll += loss.detach()
            self._engine.backward(loss * (self.world.size / batch.targets), scale_wrt_gas=False)
            if number == last:
                self._prepare_verdict(step)
            self._engine.step()
        return self._result(step)

    def _prepare_verdict(self, step: _Step) -> None:
        """Compute what the skip decision needs, but DeepSpeed does not provide."""
        if not self._engine.zero_optimization():
            step.grad_norm = self._clip_whole()
        # Without spike detection, the norm alone shows a non-finite step: it covers all ranks.
        if self.spike_detector.spike_sigma is not None:
            step.loss = self.world.sum(step.nll.clone()) / step.targets

    def _should_skip(self) -> Tensor:
        """Decide once whether to skip the step in progress. AdamW asks again for every parameter group."""
        step = self._step
        if step.skipped is None:
            step.skipped = self.spike_detector.should_skip(step.loss, self._norm(step))
            if self.config.zero.offload_optimizer != "none":  # AdamW runs on the CPU
                step.skipped = step.skipped.cpu()
        return step.skipped

    def _norm(self, step: _Step) -> Tensor:
        """Return the global norm of the gradient: ours at stage 0, else DeepSpeed's."""
        norm = self._engine.optimizer._global_grad_norm if step.grad_norm is None else step.grad_norm
        return torch.as_tensor(norm, dtype=torch.float64, device=self.world.device)

    def _result(self, step: _Step) -> StepResult:
        if not self._engine.was_step_applied():  # DeepSpeed skipped it before calling AdamW
            infinite = torch.full_like(step.nll, float("inf"))
            return StepResult(step.nll, infinite, torch.ones_like(step.nll))
        # Decide here too: ranks without parameters never run AdamW.step.
        return StepResult(step.nll, self._norm(step), self._should_skip().to(step.nll))

    def stage(self, micro_batch: MicroBatch) -> list[Tensor]:
        """Convert a micro-batch to tensors, in pinned memory if the device is a GPU. Any thread may call this."""
        tensors = [
            torch.from_numpy(getattr(micro_batch, field.name)) for field in dataclasses.fields(micro_batch)
        ]
        if self.world.device.type != "cuda":
            return tensors
        with torch.cuda.device(self.world.device):  # a new thread would use the first GPU
            return [tensor.pin_memory() for tensor in tensors]

    def logits(self, tokens: Tensor) -> Tensor:
        """Return the logits [B, L, V] of tokens [B, L], without dropout. Collective at stage 3."""
        return self._forward_eval("logits", tokens)

    def score(self, tokens: Tensor, counted_from: Tensor, counted_to: Tensor) -> tuple[Tensor, Tensor]:
        """Score targets as `LanguageModel.score` does, without dropout. Collective at stage 3."""
        return self._forward_eval("score", tokens, counted_from, counted_to)

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Add tokens [B, L] to the cache and return the logits [B, 1, V] of the last one.

        Like `logits`, runs without dropout and is collective at stage 3.
        """
        return self._forward_eval("next_logits", tokens, cache)

    @torch.no_grad()
    def _forward_eval(self, method: str, *inputs: Any) -> Any:
        """Call a method of the model in evaluation mode, without gradients."""
        self._engine.eval()
        there = (part.to(self.world.device) if isinstance(part, Tensor) else part for part in inputs)
        out = self._engine(method, *there)
        self._engine.train()
        return out

    @property
    def loss_scale(self) -> float:
        """Factor of the loss in fp16; 1 at other precisions."""
        return float(self._engine.optimizer.loss_scale) if self.config.precision == "fp16" else 1.0

    def scaler_state(self) -> dict[str, float]:
        """Return the state of the dynamic loss scaler as plain numbers; empty without one."""
        scaler = self._scaler()
        return {name: getattr(scaler, name) for name in LOSS_SCALER} if scaler else {}

    def load_scaler_state(self, state: dict[str, float]) -> None:
        """Restore the result of `scaler_state`; a checkpoint of another precision has none.

        Raises:
            ValueError: The state has other keys.
        """
        scaler = self._scaler()
        if not scaler or not state:
            return
        if set(state) != set(LOSS_SCALER):
            raise ValueError(f"its loss_scaler has {', '.join(state)} instead of {', '.join(LOSS_SCALER)}")
        for name, value in state.items():
            setattr(scaler, name, value)

    def _scaler(self) -> Any:
        scaler = getattr(self._engine.optimizer, "loss_scaler", None)
        return scaler if getattr(scaler, "dynamic", False) else None

    def _clip_whole(self) -> Tensor:
        """Clip the gradient, which every rank holds whole at stage 0, and return its norm before clipping."""
        limit = self._clip or float("inf")
        return torch.nn.utils.clip_grad_norm_(self._engine.module.parameters(), limit)


@contextlib.contextmanager
def _raw_keys_refused(config: Config) -> Iterator[None]:
    """Convert what DeepSpeed raises at its start to a `UserError` if it was given raw keys.

    DeepSpeed raises many types for a wrong key, a bare Exception among them. Failures of the machine, such as too
    little memory, pass.
    """
    try:
        yield
    except Exception as error:
        of_machine = isinstance(error, OSError | RuntimeError) and not isinstance(error, NotImplementedError)
        if not config.zero.deepspeed or isinstance(error, Gpt2distError) or of_machine:
            raise
        keys, words = ", ".join(flatten(config.zero.deepspeed)), " ".join(str(error).split())
        raise UserError(
            f"zero.deepspeed: DeepSpeed does not start with the keys {keys} ({type(error).__name__}: {words}); "
            "correct or remove them"
        ) from error


def _check_precision(precision: str, device: torch.device) -> None:
    """Check that the device supports the precision. The preflight rejects what DeepSpeed computes wrongly."""
    if precision == "fp16" and not deepspeed.accelerator.get_accelerator().is_fp16_supported():
        raise UserError(
            f"precision: fp16 is not supported on this device ({device.type}); set precision to bf16 or fp32"
        )
    if precision in ("bf16", "autocast_bf16") and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("precision: this GPU has no bf16; set precision to fp16 or fp32")
