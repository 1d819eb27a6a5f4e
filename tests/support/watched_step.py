"""Train, and watch the last step: where the host waits, what is sent, and which gradients the update gets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.runs import train_here

WORDS = ["schedule.total_steps=3", "schedule.warmup_steps=1"]
"""DeepSpeed's timer waits from the third step on, and its stage 3 has planned its gathering by then."""


@dataclass(frozen=True)
class WatchedStep:
    """What one rank did in a step.

    Attributes:
        early_waits: Who waited for the device before the last micro-batch, and how often.
        waits: Who waited for the device in the whole step.
        pinned_before: How often memory was pinned before the step.
        pinned: Who pinned memory in the step, and how often.
        streams: Who chose a stream in the step, and how often.
        collectives: "name dtype bytes" → how often.
        elements: Elements of the gradients that this rank's optimizer got.
        in_bf16: How many of them bf16 can represent.
    """

    early_waits: dict[str, int]
    waits: dict[str, int]
    pinned_before: int
    pinned: dict[str, int]
    streams: dict[str, int]
    collectives: dict[str, int]
    elements: int
    in_bf16: int


def watched_step(config: Path, overrides: list[str], timer: bool = False) -> WatchedStep:
    """Trains on a CPU that poses as a GPU. `timer` leaves DeepSpeed's throughput timer on."""
    from deepspeed.accelerator import get_accelerator

    from gpt2dist.training import setup
    from gpt2dist.training.engine import Engine
    from tests.support.collectives import Collectives
    from tests.support.mock_device import mock_device

    type(get_accelerator()).is_fp16_supported = lambda self: True
    waits, found = mock_device(), []
    train_step, loss, settings = Engine.train_step, Engine._loss, setup.deepspeed_config
    left, early = [0], [{}]

    def watched(self: Engine, batch: Any, *args: Any) -> Any:
        left[0] = len(batch.micro_batches)
        step, gradients = self._optimizer.step, []

        def looking(*args: Any, **options: Any) -> Any:
            groups = self._optimizer.param_groups  # stage 3 updates one part after the other
            gradients.extend(
                each.grad.clone() for group in groups for each in group["params"] if each.grad is not None
            )
            return step(*args, **options)

        self._optimizer.step = looking
        waits.clear()
        waits.streams.clear()
        pinned = waits.pinned.copy()
        with Collectives() as collectives, waits.counted():
            result = train_step(self, batch, *args)
        self._optimizer.step = step
        in_bf16 = sum(int((each.bfloat16().to(each.dtype) == each).sum()) for each in gradients)
        elements = sum(each.numel() for each in gradients)
        memory = pinned.total(), dict(waits.pinned - pinned)
        sent = dict(waits.streams), dict(collectives.count)
        found[:] = [WatchedStep(early[0], dict(waits), *memory, *sent, elements, in_bf16)]
        return result

    def counted(self: Engine, micro_batch: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            early[0] = dict(waits)
        return loss(self, micro_batch)

    Engine.train_step, Engine._loss = watched, counted
    if timer:
        setup.deepspeed_config = lambda *args: settings(*args) | {"timers": {}}
    train_here(config, [*WORDS, *overrides])
    return found[0]
