"""The loss of a fixed batch: stored with a checkpoint, computed again after a load."""

from pathlib import Path

import numpy as np

from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.errors import RunError
from gpt2dist.evaluation.scoring import Forward, score_batch
from gpt2dist.loading.loader import MicroBatcher, MixtureBatcher

TOLERANCE = 1e-4
"""Relative change that a load may show in fp32; a rounding of weights to 16 bits shows more."""
TOLERANCE_16_BIT = 2e-2


WINDOWS = 4
"""Windows of the probe; one at a time, so that it does not depend on the size of a micro-batch."""


def probe_loss(forward: Forward, batcher: MixtureBatcher) -> float:
    """Mean loss of the first windows of the first training set; the same on every rank. Collective.

    Args:
        forward: The model.
        batcher: The training sets.
    """
    first = batcher.batchers[0]
    owned = MicroBatcher(first.stream, first.windows, "new")
    indices = np.arange(min(len(first.windows), WINDOWS))
    nll = [score_batch(forward, owned(indices[i : i + 1]))[0].item() for i in indices]
    return sum(nll) / int(owned.counted(indices).sum())


def require_equal_probe(path: Path, state: TrainerState, precision: str, loss: float) -> None:
    """Compares the probe of a loaded model with the stored one.

    Args:
        path: The checkpoint.
        state: What it says.
        precision: Of this run.
        loss: The probe of the loaded model.

    Raises:
        RunError: They differ by more than rounding.
    """
    exact = precision == state.precision == "fp32"
    allowed = TOLERANCE if exact else TOLERANCE_16_BIT
    if not abs(loss - state.probe_loss) <= allowed * state.probe_loss:
        raise RunError(
            f"{path} was loaded, yet its model gives a loss of {loss:.6f} on the probe where "
            f"{state.probe_loss:.6f} was stored: do not train on; resume from an older checkpoint"
        )
