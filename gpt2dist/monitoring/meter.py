"""Measure what each log line reports: loss, speed, waiting and memory."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2dist.distributed.world import World
from gpt2dist.memory import GIB, peak_resident_bytes


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


class Meter:
    """Accumulator over the steps of a log interval. Only `take` reads the device.

    Args:
        world: This rank's view of the job.
        flops_per_token: FLOPs of training on one token.
        peak_flops: Peak FLOP/s of one device; None omits the model FLOPs utilisation.
    """

    def __init__(self, world: World, flops_per_token: float, peak_flops: float | None):
        self._world = world
        self._flops_per_token = flops_per_token
        self._peak_flops = peak_flops
        self._reset()

    def _reset(self) -> None:
        self._steps: list[Tensor] = []
        self._targets: list[int] = []
        self._tokens = 0
        self._waited = self._paused = 0.0
        self._began = time.monotonic()

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
        self._tokens += tokens

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time in this context as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time in this context (evaluation, sampling, saving) from the speed of training."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def take(self) -> tuple[dict[str, float], list[StepRecord]]:
        """Return the values and steps of the interval, and start a new one. Collective; reads the device once.

        The loss covers the steps that were not skipped; it is NaN if all were.
        """
        rows = torch.stack(self._steps)
        rows[:, 0] = self._world.sum(rows[:, 0].clone())
        records = [
            StepRecord(nll / targets, norm, bool(skipped))
            for (nll, norm, skipped), targets in zip(rows.tolist(), self._targets, strict=True)
        ]
        seconds = max(1e-9, time.monotonic() - self._began - self._paused)
        rate = self._tokens / seconds
        loss = self._mean_loss(records)
        values: dict[str, float] = {
            "train/loss": loss,
            "train/perplexity": math.inf if loss > 700 else math.exp(loss),
            "throughput/tokens_per_second": rate,
            "time/step": seconds / len(records),
            "time/data_wait": self._waited / len(records),
            "memory/peak_gib": self._peak_memory() / GIB,
        }
        if self._peak_flops:
            possible = self._peak_flops * self._world.size
            values["throughput/mfu"] = rate * self._flops_per_token / possible
        self._reset()
        return values, records

    def _mean_loss(self, records: list[StepRecord]) -> float:
        """Return the mean over the targets of the steps that were not skipped."""
        kept = [(each.loss * n, n) for each, n in zip(records, self._targets, strict=True) if not each.skipped]
        return sum(nll for nll, _ in kept) / sum(n for _, n in kept) if kept else math.nan

    def _peak_memory(self) -> int:
        """Return the peak memory of the process in bytes: on the GPU if there is one, else resident."""
        if self._world.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return peak_resident_bytes()
