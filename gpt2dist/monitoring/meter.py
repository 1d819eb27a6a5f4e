"""What is measured between two log lines: loss, speed, waiting, memory."""

import contextlib
import math
import resource
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from gpt2dist.distributed import World
from gpt2dist.monitoring.metrics import Value


class Meter:
    """Adds up over the steps of a log interval. Nothing here reads the device before `take`.

    Args:
        world: This rank.
        flops_per_token: Cost of training on one token.
        peak_flops: FLOP/s that one device could do; None leaves model FLOPs utilisation out.
    """

    def __init__(self, world: World, flops_per_token: float, peak_flops: float | None):
        self._world = world
        self._flops_per_token = flops_per_token
        self._peak_flops = peak_flops
        self._reset()

    def _reset(self) -> None:
        self._nll = torch.zeros((), dtype=torch.float64, device=self._world.device)
        self._targets = self._tokens = self._steps = 0
        self._waited = self._paused = 0.0
        self._began = time.monotonic()

    def add(self, nll: Tensor, targets: int, tokens: int) -> None:
        """Counts one step.

        Args:
            nll: This rank's Σ nll, a float64 scalar on the device.
            targets: Targets in the loss of the global batch.
            tokens: Tokens that the global batch was computed on.
        """
        self._nll += nll
        self._targets += targets
        self._tokens += tokens
        self._steps += 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Times the wait for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps evaluation, sampling and saving out of the speed of training."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def take(self) -> dict[str, Value]:
        """The values of the interval that ends here. Collective; synchronises with the device once."""
        loss = self._world.sum(self._nll).item() / self._targets
        seconds = max(1e-9, time.monotonic() - self._began - self._paused)
        rate = self._tokens / seconds
        values: dict[str, Value] = {
            "train/loss": loss,
            "train/perplexity": math.exp(loss) if loss < 700 else math.inf,
            "throughput/tokens_per_second": rate,
            "time/step": seconds / self._steps,
            "time/data_wait": self._waited / self._steps,
            "memory/peak_gib": self._peak_memory() / 2**30,
        }
        if self._peak_flops:
            possible = self._peak_flops * self._world.size
            values["throughput/mfu"] = rate * self._flops_per_token / possible
        self._reset()
        return values

    def _peak_memory(self) -> int:
        """Bytes that the process had at most: on the GPU where there is one, else resident."""
        if self._world.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
