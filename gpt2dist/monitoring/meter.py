"""Measure what each log line reports: loss, speed, waiting and memory."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gpt2dist.distributed.world import World
from gpt2dist.memory import GIB, peak_resident_bytes

TIMED_FORWARDS = 100
"""At most this many forward passes of an interval are measured."""


@dataclass(frozen=True)
class StepRecord:
    """Results of one step, as read from the device.

    Attributes:
        loss: Mean loss of the global batch.
        grad_norm: Norm of its gradient before clipping.
        skipped: Whether the update was skipped.
    """

    loss: float
    grad_norm: float
    skipped: bool


class Clock(Protocol):
    """Clock of the device that trains."""

    def mark(self) -> Any:
        """Return the moment at which the device will have done all work queued so far, without waiting."""

    def seconds(self, begin: Any, end: Any) -> float:
        """Return the seconds between two marks. Waits until the device has reached both."""


class HostClock:
    """Clock of a CPU, which has done all work when a call returns."""

    def mark(self) -> float:
        """Return the present moment."""
        return time.monotonic()

    def seconds(self, begin: float, end: float) -> float:
        """Return the seconds between two marks."""
        return end - begin


class GpuClock:
    """Clock of a GPU: events in its queue, which run as long as the work before them."""

    def mark(self) -> torch.cuda.Event:
        """Queue an event behind all work queued until now."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Return the seconds between two events."""
        end.synchronize()
        return begin.elapsed_time(end) / 1000


class Meter:
    """Accumulator over the steps of a log interval. Only `take` reads the device.

    Speed is that of the device, which runs behind the host. It leaves out the first step of a start, in which
    kernels are compiled, NCCL connects and the allocator grows, and whatever precedes it.

    Args:
        world: This rank's view of the job.
        flops_per_token: FLOPs of training on one token.
        peak_flops: Peak FLOP/s of one device; None omits the model FLOPs utilisation.
        clock: Clock of the device; None for that of this rank's device.

    Attributes:
        own_times: Seconds of this rank in the interval of the last `take`: of a step, of the forward pass of a
            micro-batch, and waiting for data in a step. Empty if no step was timed.
    """

    def __init__(
        self, world: World, flops_per_token: float, peak_flops: float | None, clock: Clock | None = None
    ):
        self._world = world
        self._flops_per_token = flops_per_token
        self._peak_flops = peak_flops
        self.own_times: dict[str, float] = {}
        self._clock = clock or (GpuClock() if world.device.type == "cuda" else HostClock())
        self._reset(None)

    def _reset(self, began: Any) -> None:
        self._steps: list[Tensor] = []
        self._targets: list[int] = []
        self._start_timing(began)

    def _start_timing(self, began: Any) -> None:
        """Measure the speed from a mark on; not at all if that is None."""
        self._began = began
        self._timed_steps = self._timed_tokens = 0
        self._waited = 0.0
        self._pauses: list[tuple[Any, Any]] = []
        self._forwards: list[tuple[Any, Any]] = []

    @property
    def steps(self) -> int:
        """The number of steps since the last `take`."""
        return len(self._steps)

    def add(self, nll: Tensor, grad_norm: Tensor, skipped: Tensor, targets: int, tokens: int) -> None:
        """Add one step.

        Args:
            nll: This rank's Σ nll, a float64 scalar on the device.
            grad_norm: Norm of the gradient, the same on all ranks, a float64 scalar on the device.
            skipped: 1 if the update was skipped, the same on all ranks, a float64 scalar on the device.
            targets: Targets in the loss of the global batch.
            tokens: Tokens that the global batch was computed on.
        """
        self._steps.append(torch.stack([nll, grad_norm, skipped]))
        self._targets.append(targets)
        if self._began is None:  # the first step of this start
            self._start_timing(self._clock.mark())
            return
        self._timed_steps += 1
        self._timed_tokens += tokens

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the host in this context as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Measure the device's work in this context as the forward pass of a micro-batch.

        Only the first ones of an interval are measured, since each keeps two events of a GPU until `take`.
        """
        if len(self._forwards) >= TIMED_FORWARDS:
            yield
            return
        began = self._clock.mark()
        yield
        self._forwards.append((began, self._clock.mark()))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the work in this context (evaluation, sampling, saving) from the speed of training.

        Steps that the device has not finished when the context begins, count as training.
        """
        began = self._clock.mark()
        yield
        self._pauses.append((began, self._clock.mark()))

    def take(self) -> tuple[dict[str, float], list[StepRecord]]:
        """Return the values and steps of the interval, and start a new one. Collective; reads the device once.

        The loss covers the steps that were not skipped; it is NaN if all were. Speed is missing if the interval
        has only the first step of a start.
        """
        rows = torch.stack(self._steps)
        rows[:, 0] = self._world.sum(rows[:, 0].clone())
        ended = self._clock.mark()  # also the beginning of the next interval
        records = [
            StepRecord(nll / targets, norm, bool(skipped))
            for (nll, norm, skipped), targets in zip(rows.tolist(), self._targets, strict=True)
        ]
        loss = self._mean_loss(records)
        values: dict[str, float] = {
            "train/loss": loss,
            "train/perplexity": math.inf if loss > 700 else math.exp(loss),
            **self._speed(ended),
            "memory/peak_gib": self._peak_memory() / GIB,
        }
        self.own_times = self._own_times(values)
        self._reset(ended)
        return values, records

    def _own_times(self, values: dict[str, float]) -> dict[str, float]:
        """Return the times of this rank, by the names of `rank_times`; empty if no step was timed."""
        if not self._timed_steps:
            return {}
        forward = sum(self._clock.seconds(*each) for each in self._forwards) / max(1, len(self._forwards))
        return {"step": values["time/step"], "forward": forward, "data_wait": values["time/data_wait"]}

    def _speed(self, ended: Any) -> dict[str, float]:
        """Return the speed of the interval up to a mark; empty if no step was timed."""
        if not self._timed_steps:
            return {}
        paused = sum(self._clock.seconds(*pause) for pause in self._pauses)
        seconds = max(1e-9, self._clock.seconds(self._began, ended) - paused)
        rate = self._timed_tokens / seconds
        values = {
            "throughput/tokens_per_second": rate,
            "time/step": seconds / self._timed_steps,
            "time/data_wait": self._waited / self._timed_steps,
        }
        if self._peak_flops:
            possible = self._peak_flops * self._world.size
            values["throughput/mfu"] = rate * self._flops_per_token / possible
        return values

    def _mean_loss(self, records: list[StepRecord]) -> float:
        """Return the mean over the targets of the steps that were not skipped."""
        kept = [(each.loss * n, n) for each, n in zip(records, self._targets, strict=True) if not each.skipped]
        return sum(nll for nll, _ in kept) / sum(n for _, n in kept) if kept else math.nan

    def _peak_memory(self) -> int:
        """Return the peak memory of the process in bytes: on the GPU if there is one, else resident."""
        if self._world.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return peak_resident_bytes()
