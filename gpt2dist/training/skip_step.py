"""Decide which steps to skip: those whose loss or gradient norm is not finite, or far above recent ones.

The decision is made on the device from numbers that are the same on all ranks, and the optimizer applies it
there. In a good step, the host does not wait for it.
"""

from typing import Any

import torch
from torch import Tensor

HISTORY = 128
"""Number of recent steps that a step is compared with, as in OLMo-core."""
LEAST_HISTORY = 32
"""Minimum number of steps in the history to detect a spike: early losses fall too fast."""


class SpikeDetector:
    """Detector of bad steps.

    Args:
        spike_sigma: Standard deviations above the mean of recent steps beyond which a loss or gradient norm is a
            spike; None checks only that they are finite.
        device: Device of the history and the decision.
    """

    def __init__(self, spike_sigma: float | None, device: torch.device):
        self.spike_sigma = spike_sigma
        # Rows: losses, gradient norms. A ring buffer; until it is full, its first `count` places are filled.
        self._recent = torch.zeros(2, HISTORY, dtype=torch.float64, device=device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)
        self._places = torch.arange(HISTORY, device=device)

    @torch.no_grad()
    def should_skip(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Decide whether to skip a step; with spike detection, add a good step to the history.

        Args:
            loss: Mean loss of the global batch, a scalar.
            grad_norm: Norm of its gradient before clipping, a scalar.

        Returns:
            fp32 scalar on the device: 1 to skip the step, else 0.
        """
        values = torch.stack([loss, grad_norm]).to(self._recent)
        bad = ~values.isfinite().all()
        if self.spike_sigma is not None:
            bad = bad | self._is_spike(values)
            place = self._count % HISTORY
            here = (self._places == place) & ~bad
            self._recent = torch.where(here, values[:, None], self._recent)
            self._count += (~bad).long()
        return bad.float()

    def _is_spike(self, values: Tensor) -> Tensor:
        filled = self._count.clamp(max=HISTORY)
        known = (self._places < filled).to(self._recent)
        amount = filled.clamp(min=1)
        mean = (self._recent * known).sum(dim=1) / amount
        deviation = (((self._recent - mean[:, None]) ** 2 * known).sum(dim=1) / amount).sqrt()
        beyond = values > mean + float(self.spike_sigma or 0) * deviation
        return beyond.any() & (filled >= LEAST_HISTORY)

    def state(self) -> dict[str, list[float]]:
        """Return the history as plain numbers, so that a resumed run decides the same; empty without one."""
        if self.spike_sigma is None:
            return {}
        losses, norms = self._recent.tolist()
        return {"losses": losses, "grad_norms": norms, "count": [float(self._count)]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `state`; if that is empty, start with an empty history.

        Raises:
            ValueError: The history has other keys or another length.
        """
        if self.spike_sigma is not None and state:
            lengths = {key: len(values) for key, values in state.items()}
            if lengths != {"losses": HISTORY, "grad_norms": HISTORY, "count": 1}:
                raise ValueError(f"its history does not hold the losses and gradient norms of {HISTORY} steps")
            self._recent.copy_(torch.tensor([state["losses"], state["grad_norms"]], dtype=torch.float64))
            self._count.fill_(int(state["count"][0]))
