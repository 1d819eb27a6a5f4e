"""Training hooks: callbacks after each step, log, evaluation and save. Does not import torch.

The metrics recorder and the evaluator are hooks. Users name their own in `run.hooks`; docs/guides/hooks.md has
examples.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gpt2dist.config import Config
from gpt2dist.errors import Gpt2distError, UserError
from gpt2dist.monitoring.logs import logger
from gpt2dist.plan import Plan
from gpt2dist.registry import Registry
from gpt2dist.run.metrics_file import Value

if TYPE_CHECKING:  # they import torch, but the preflight imports users' hooks before torch
    from gpt2dist.distributed.world import World
    from gpt2dist.training.engine import Engine, StepResult

Values = Mapping[str, Value]
"""Tag, such as `train/loss`, → number or text."""


class TrainerView(Protocol):
    """The part of the trainer that hooks may use. The attributes are read-only."""

    @property
    def config(self) -> Config:
        """The run's configuration."""

    @property
    def plan(self) -> Plan:
        """The run's plan: model shape, steps and batch sizes."""

    @property
    def world(self) -> "World":
        """This rank, and collectives."""

    @property
    def engine(self) -> "Engine":
        """The model: `logits` and `score`, which all ranks must call together at ZeRO stage 3."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""

    @property
    def last_step(self) -> int:
        """The step at which this start of the run ends."""

    @property
    def consumed_tokens(self) -> int:
        """Targets trained on."""

    @property
    def evaluation_done(self) -> bool:
        """Whether all evaluations due after this step are done. False if a stop interrupted them."""

    def is_due(self, every: int | None) -> bool:
        """Return whether an action with this interval in steps is due after this step; None is never due."""

    def poll(self) -> None:
        """Exchange stop requests between the ranks. Call it between the pieces of long work. Collective.

        Raises:
            StopRequestedError: The run stops, on all ranks. Do not catch it.
        """

    def info(self, text: str) -> None:
        """Print a line above the progress bar of rank 0."""


class Hook:
    """Base class of training hooks. Override the methods that you need; the others do nothing.

    Every method is called on every rank, at the same point of the training, so it may use collectives if all
    ranks do. Training waits for it. A hook must not change the training: neither the weights, nor the optimizer,
    nor the data. It may draw random numbers. The class is called without arguments.

    An exception ends the run with a message that names the hook.
    """

    def start(self, trainer: TrainerView) -> None:
        """Prepare. Called once, before the first step and after a checkpoint was loaded.

        If this raises on any rank, the run is refused on all ranks.
        """

    def after_step(self, trainer: TrainerView, result: "StepResult") -> None:
        """Receive the result of an optimizer step, before it is logged.

        Args:
            trainer: The trainer after this step.
            result: Tensors on the device. Reading one waits for the device, which slows training down.
        """

    def after_log(self, trainer: TrainerView, values: Values) -> None:
        """Receive the values that are logged every `monitoring.log_every_steps`, such as `train/loss`.

        Losses and gradient norms refer to the global batch, times and memory to this rank.
        """

    def evaluate(self, trainer: TrainerView) -> Iterable[Values]:
        """Evaluate the model, if due after this step, and yield values to record. Called after the log.

        Choose any tags, such as `probe/entropy`; values are numbers or texts. Those of rank 0 go to metrics.jsonl
        and the trackers. Long evaluations should call `trainer.poll`, which lets a stop request interrupt them.
        The resumed run then calls this method again for the same step.
        """
        return ()

    def after_evaluation(self, trainer: TrainerView, values: Values) -> None:
        """Receive what an evaluation yielded: once per validation set, and once for all samples of a step.

        After an interrupted evaluation, the resumed run calls this again for the same step.
        """

    def after_save(self, trainer: TrainerView, checkpoint: Path) -> None:
        """Receive the directory of a checkpoint that is complete and on disk.

        If `checkpoint.asynchronous` is true, training is then some steps past the step of the checkpoint.
        """

    def close(self, failed: bool) -> None:
        """Finish. Called once if `start` succeeded, unless the process is killed.

        Args:
            failed: Whether an error ended the run; False if the run completed or was asked to stop.
        """


HOOKS: Registry[Callable[[], Hook]] = Registry("training hook", "gpt2dist.hooks", {}, Hook)


class HookError(Gpt2distError):
    """A user's hook raised an exception, which is the cause of this one."""


class Hooks:
    """The hooks of a run, called in order.

    Args:
        builtin: Our hooks, whose exceptions propagate unchanged.
        users: Name used in messages → factory of a user's hook.
    """

    def __init__(self, builtin: Sequence[Hook], users: Mapping[str, Callable[[], Hook]]):
        self._builtin = builtin
        self._users = users
        self._started: list[tuple[str, Hook]] = []  # a built-in hook has no name

    @contextlib.contextmanager
    def running(self, trainer: TrainerView) -> Iterator[None]:
        """Start the hooks, and close them on exit. Collective.

        Raises:
            UserError: A user's hook could not start on some rank. Every rank raises it.
            HookError: A user's hook failed in `close`.
        """
        try:
            self._start(trainer)
            yield
        except BaseException:
            self._close(failed=True)
            raise
        self._close(failed=False)

    def after_step(self, trainer: TrainerView, result: "StepResult") -> None:
        """Call `Hook.after_step` of all hooks."""
        self._each(lambda hook: hook.after_step(trainer, result))

    def after_log(self, trainer: TrainerView, values: Values) -> None:
        """Call `Hook.after_log` of all hooks."""
        self._each(lambda hook: hook.after_log(trainer, values))

    def evaluate(self, trainer: TrainerView) -> None:
        """Call `Hook.evaluate` of all hooks, and `Hook.after_evaluation` of all when one yields a result."""

        def evaluate(hook: Hook) -> None:
            for values in hook.evaluate(trainer):
                _check_values(values)
                self._after_evaluation(trainer, values)

        self._each(evaluate)

    def _after_evaluation(self, trainer: TrainerView, values: Values) -> None:
        self._each(lambda hook: hook.after_evaluation(trainer, values))

    def after_save(self, trainer: TrainerView, checkpoint: Path) -> None:
        """Call `Hook.after_save` of all hooks."""
        self._each(lambda hook: hook.after_save(trainer, checkpoint))

    def _start(self, trainer: TrainerView) -> None:
        for hook in self._builtin:
            hook.start(trainer)
            self._started.append(("", hook))
        for name, make in self._users.items():
            fault = ""
            try:
                hook = make()
                hook.start(trainer)
                self._started.append((name, hook))
            except Exception as error:
                fault = (
                    f"{name} could not start ({type(error).__name__}: {error}); fix it, or remove it from "
                    "run.hooks"
                )
                logging.getLogger("hooks").error("%s", name, exc_info=error)  # not to the terminal
            if first := trainer.world.first(fault):
                raise UserError(first)

    def _each(self, call: Callable[[Hook], None]) -> None:
        for name, hook in self._started:
            _call(name, hook, call)

    def _close(self, failed: bool) -> None:
        """Close all hooks, the last one first. If the run has not failed, raise the first error of a hook."""
        errors: list[HookError] = []
        while self._started:
            try:
                _call(*self._started.pop(), lambda hook: hook.close(failed))
            except HookError as error:
                if failed or errors:
                    logger.warning("%s", error)
                errors.append(error)
        if errors and not failed:
            raise errors[0]


def _check_values(values: Values) -> None:
    """Check what an evaluation yielded, before metrics.jsonl and the trackers receive it.

    Raises:
        ValueError: A tag is reserved for training, or a value is neither a number nor a text.
    """
    for tag, value in values.items():
        if tag in ("step", "time") or tag.startswith("train/"):
            raise ValueError(f"it yielded the tag {tag!r}, which training uses; choose another")
        if not isinstance(value, float | int | str | None):
            raise ValueError(f"it yielded a {type(value).__name__} as {tag!r}; convert it to a number or a text")


def _call(name: str, hook: Hook, call: Callable[[Hook], None]) -> None:
    """Call a hook.

    Raises:
        HookError: A user's hook raised an exception that neither this package nor the loss of a rank explains.
    """
    try:
        call(hook)
    except Gpt2distError:
        raise
    except Exception as error:
        from gpt2dist.distributed.world import is_peer_loss  # imports torch

        if not name or is_peer_loss(error):
            raise
        raise HookError(
            f"{name} failed ({type(error).__name__}: {error}); fix it, or remove it from run.hooks, and start "
            "again: the run resumes from its newest checkpoint"
        ) from error
