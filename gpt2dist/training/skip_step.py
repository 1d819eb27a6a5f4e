"""Which steps are left out: those whose loss or gradient is not finite, or far beyond the recent ones.

The verdict is reached on the device, from numbers that are the same on all ranks, and AdamW obeys it there: on
the way of a good step nobody waits for it.
"""

from typing import Any

import torch
from torch import Tensor

HISTORY = 128
"""Steps that a spike is compared with, as in OLMo-core."""
LEAST_HISTORY = 32
"""Steps before which nothing is a spike: early losses fall too fast to tell."""


class SpikeDetector:
    """Judges the steps of a run.

    Args:
        spike_sigma: Standard deviations over the mean of the recent steps from which a loss or a gradient norm is
            a spike; None judges only whether they are finite.
        device: Where the numbers are.
    """

    def __init__(self, spike_sigma: float | None, device: torch.device):
        self.spike_sigma = spike_sigma
        # Rows: losses, gradient norms. A ring, of which the first `count` places are filled.
        self._recent = torch.zeros(2, HISTORY, dtype=torch.float64, device=device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)
        self._places = torch.arange(HISTORY, device=device)

    @torch.no_grad()
    def should_skip(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Judges a step and, if it is good, remembers it.

        Args:
            loss: Mean loss of the global batch, a scalar.
            grad_norm: Norm of its gradient before clipping, a scalar.

        Returns:
            fp32 scalar on the device: 1 where the step is to be left out, else 0.
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
        """What a resumed run needs to judge alike, as plain numbers; empty where nothing is remembered."""
        if self.spike_sigma is None:
            return {}
        losses, norms = self._recent.tolist()
        return {"losses": losses, "grad_norms": norms, "count": [float(self._count)]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned; a run that did not remember begins without a past."""
        if self.spike_sigma is not None and state:
            self._recent.copy_(torch.tensor([state["losses"], state["grad_norms"]], dtype=torch.float64))
            self._count.fill_(int(state["count"][0]))
