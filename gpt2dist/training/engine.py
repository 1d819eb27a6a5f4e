"""Run DeepSpeed: train a step, run the model, read and write the whole state.

DeepSpeed partitions, communicates and casts. gpt2dist itself does the schedule, the normalisation of the loss,
clipping at stage 0 and checkpoints.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from gpt2dist.config import Config
from gpt2dist.config.reading import flatten
from gpt2dist.distributed.deepspeed_import import deepspeed, start_quietly
from gpt2dist.distributed.deepspeed_probe import LOSS_SCALER, check_deepspeed
from gpt2dist.distributed.gpu import supports_bf16
from gpt2dist.distributed.world import World
from gpt2dist.errors import Gpt2distError, UserError
from gpt2dist.loading.loader import MicroBatch, StepBatch
from gpt2dist.model.gpt2 import Cache, LanguageModel, named_parameters
from gpt2dist.training.optimizers import build_optimizer, optimizer_kind
from gpt2dist.training.optimizers.base import FragmentedOptimizer
from gpt2dist.training.skip_step import SpikeDetector
from gpt2dist.training.zero_state import PartitionedState

T = TypeVar("T")


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


class SkipDecision:
    """Whether to skip the update of one step, decided once and on the device.

    `Engine.train_step` hands it to the optimizer, which calls it for each of its parameter groups. The first call
    decides: DeepSpeed computes the norm of the gradient in its own step, just before it runs the optimizer.

    Args:
        detector: Makes the decision, and adds a good step to its history.
        loss: Mean loss of the global batch.
        grad_norm: Returns the norm of the gradient before clipping, once it is known.
        device: Device on which the optimizer reads the decision.
    """

    def __init__(
        self, detector: SpikeDetector, loss: Tensor, grad_norm: Callable[[], Tensor], device: torch.device
    ):
        self._detector = detector
        self._loss = loss
        self._grad_norm = grad_norm
        self._device = device
        self._skip: Tensor | None = None

    def __call__(self) -> Tensor:
        """Return the decision: an fp32 scalar, 1 to skip the update, else 0."""
        if self._skip is None:
            self._skip = self._detector.should_skip(self._loss, self._grad_norm()).to(self._device)
        return self._skip


class Engine:
    """A model that DeepSpeed trains.

    Args:
        model: The model, on any device.
        config: The run's configuration.
        deepspeed_config: Result of the function `deepspeed_config`.
        world: This rank.

    Raises:
        UserError: The device does not support the configured precision, DeepSpeed rejects the raw keys, or this
            version of DeepSpeed lacks what gpt2dist uses.
    """

    def __init__(self, model: LanguageModel, config: Config, deepspeed_config: dict[str, Any], world: World):
        _check_precision(config.precision, world.device)
        self.world = world
        self.config = config
        self._borders = model.borders
        named = list(named_parameters(model.to(world.device)))
        self._optimizer = build_optimizer(config, named)
        name_of = {id(parameter): name for name, parameter in named}  # DeepSpeed replaces the optimizer's tensors
        groups = [[name_of[id(each)] for each in group["params"]] for group in self._optimizer.param_groups]
        start_quietly(world)
        with _raw_keys_refused(config):
            self._engine, *_ = deepspeed.initialize(
                model=model, optimizer=self._optimizer, config=deepspeed_config, dist_init_required=False
            )
        check_deepspeed(self._engine, deepspeed.__version__)
        self._clip = config.optimizer.clip_grad_norm
        self.spike_detector = SpikeDetector(config.stability.spike_sigma, world.device)
        self.state = PartitionedState(
            self._engine, named_parameters(self._engine.module), optimizer_kind(config).state_names, groups
        )
        self.state.materialise(updates=0)  # so that a run can be saved before its first update
        if isinstance(self._optimizer, FragmentedOptimizer):
            self._optimizer.set_fragments(self.state.fragments(world), world.rank, world.size)

    def train_step(
        self,
        batch: StepBatch[list[Tensor]],
        lr: float,
        before_each: Callable[[], None] = lambda: None,
        forward: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> StepResult:
        """Accumulate the gradients of a global batch and update the parameters once.

        The loss is Σ nll over all counted targets of the global batch / their number N. Each micro-batch
        contributes its sum × world_size / N, because DeepSpeed averages gradients over the ranks.

        Args:
            batch: This rank's micro-batches.
            lr: Learning rate of the update; a parameter group may have a multiple of it, its `lr_ratio`.
            before_each: Called before each micro-batch. If it raises, no parameter has changed.
            forward: Returns a context for each forward pass, which measures it.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = _group_lr(group, lr)
        nll = self._accumulate(batch, before_each, forward)
        grad_norm = self._gradient_norm()
        decision = SkipDecision(self.spike_detector, self._mean_loss(nll, batch), grad_norm, self._update_device)
        self._optimizer.should_skip = decision
        self._engine.step()
        result = self._result(nll, grad_norm, decision)
        self.state.count_step(result.skipped)
        return result

    def _accumulate(
        self,
        batch: StepBatch[list[Tensor]],
        before_each: Callable[[], None],
        forward: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> Tensor:
        """Accumulate the gradients of all micro-batches, and return this rank's Σ nll, an fp64 scalar."""
        self._engine.train()
        nll = torch.zeros((), dtype=torch.float64, device=self.world.device)
        last = len(batch.micro_batches) - 1
        for number, micro_batch in enumerate(batch.micro_batches):
            before_each()
            self._engine.set_gradient_accumulation_boundary(number == last)
            with forward():
                loss = self._loss(micro_batch)
            nll += loss.detach()
            self._engine.backward(loss * (self.world.size / batch.targets), scale_wrt_gas=False)
            if number < last:
                self._engine.step()  # counts the micro-batch
        return nll

    def _loss(self, micro_batch: list[Tensor]) -> Tensor:
        """Return the Σ nll of a micro-batch, with its graph."""
        # `non_blocking` makes copies from pinned memory asynchronous, and has no effect on others.
        inputs = [part.to(self.world.device, non_blocking=True) for part in micro_batch]
        return self._call(lambda model: model.nll_sum(*inputs))

    def _call(self, method: Callable[[LanguageModel], T]) -> T:
        """Call a method of the model within DeepSpeed's forward pass, which gathers its parameters at stage 3."""
        return self._engine(method)

    def _gradient_norm(self) -> Callable[[], Tensor]:
        """Return a function for the global norm of the gradient before clipping, an fp64 scalar on the device.

        At stage 0, the gradient is clipped here. At stages 1 to 3, DeepSpeed clips it in its own step, and the
        function may be called only from then on.
        """
        whole = None if self._engine.zero_optimization() else self._clip_whole()

        def norm() -> Tensor:
            known = self._engine.optimizer._global_grad_norm if whole is None else whole
            return torch.as_tensor(known, dtype=torch.float64, device=self.world.device)

        return norm

    def _mean_loss(self, nll: Tensor, batch: StepBatch[list[Tensor]]) -> Tensor:
        """Return the mean loss of the global batch; 0 without spike detection, which saves a reduction.

        The gradient norm alone shows whether a step is finite, because it covers all ranks.
        """
        if self.spike_detector.spike_sigma is None:
            return torch.zeros_like(nll)
        return self.world.sum(nll.clone()) / batch.targets

    def _result(self, nll: Tensor, grad_norm: Callable[[], Tensor], decision: SkipDecision) -> StepResult:
        if not self._engine.was_step_applied():  # DeepSpeed found an fp16 overflow: the optimizer never ran
            return StepResult(nll, torch.full_like(nll, float("inf")), torch.ones_like(nll))
        # The decision is made here if not before: ranks without parameters never run the optimizer.
        return StepResult(nll, grad_norm(), decision().to(nll))

    @property
    def _update_device(self) -> torch.device:
        """Device on which the optimizer updates the parameters."""
        return self.world.device if self.config.zero.offload_optimizer == "none" else torch.device("cpu")

    def stage(self, micro_batch: MicroBatch) -> list[Tensor]:
        """Convert a micro-batch to tensors, in pinned memory if the device is a GPU. Any thread may call this."""
        tensors = [
            torch.from_numpy(getattr(micro_batch, field.name)) for field in dataclasses.fields(micro_batch)
        ]
        borders = self._borders(tensors[0])
        if borders is not None:
            tensors.append(borders)
        if self.world.device.type != "cuda":
            return tensors
        with torch.cuda.device(self.world.device):  # a new thread would use the first GPU
            return [tensor.pin_memory() for tensor in tensors]

    def logits(self, tokens: Tensor) -> Tensor:
        """Return the logits [B, L, V] of tokens [B, L], without dropout. Collective at stage 3."""
        (tokens,) = self._on_device(tokens)
        return self._evaluate(lambda model: model.logits(tokens))

    def score(self, tokens: Tensor, counted_from: Tensor, counted_to: Tensor) -> tuple[Tensor, Tensor]:
        """Score targets as `LanguageModel.score` does, without dropout. Collective at stage 3."""
        inputs = self._on_device(tokens, counted_from, counted_to)
        return self._evaluate(lambda model: model.score(*inputs))

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Add tokens [B, L] to the cache and return the logits [B, 1, V] of the last one.

        Like `logits`, runs without dropout and is collective at stage 3.
        """
        (tokens,) = self._on_device(tokens)
        return self._evaluate(lambda model: model.next_logits(tokens, cache))

    def _on_device(self, *tensors: Tensor) -> list[Tensor]:
        return [tensor.to(self.world.device) for tensor in tensors]

    @torch.no_grad()
    def _evaluate(self, method: Callable[[LanguageModel], T]) -> T:
        """Call a method of the model in evaluation mode, without gradients."""
        self._engine.eval()
        out = self._call(method)
        self._engine.train()
        return out

    def learning_rates(self, lr: float) -> dict[str, float]:
        """Return the rates of the parameter groups that have a name for theirs, given the scheduled one."""
        groups = self._engine.optimizer.param_groups
        return {group["lr_name"]: _group_lr(group, lr) for group in groups if "lr_name" in group}

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


def _group_lr(group: dict[str, Any], lr: float) -> float:
    """Return the learning rate of a parameter group, given the scheduled one."""
    return lr * group.get("lr_ratio", 1.0)


@contextlib.contextmanager
def _raw_keys_refused(config: Config) -> Iterator[None]:
    """Convert an error of `deepspeed.initialize` to a `UserError` if the configuration has raw keys.

    DeepSpeed raises many types for a wrong key, including a bare Exception. Failures of the machine, such as too
    little memory, are not converted.
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
    """Check that the device supports the precision. The preflight rejects DeepSpeed's wrong ones."""
    if precision == "fp16" and not deepspeed.accelerator.get_accelerator().is_fp16_supported():
        raise UserError(
            f"precision: fp16 is not supported on this device ({device.type}); set precision to bf16 or fp32"
        )
    if precision in ("bf16", "autocast_bf16") and device.type == "cuda" and not supports_bf16():
        raise UserError("precision: this GPU has no bf16; set precision to fp16 or fp32")
