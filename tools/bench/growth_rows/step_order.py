"""A large global batch: the order of one step, as each of the ranks computes it."""

import time
from pathlib import Path

import numpy as np

from gpt2dist.loading.mixture import Mixture

TITLE = "order of a step, on each rank"
UNIT = "windows of a global batch"
SIZES = (1_024, 10_240, 102_400)
ROUNDS = 10


def measure(size: int, directory: Path) -> dict[str, float]:
    """Map the samples of a step to windows of one dataset of 10^9 windows."""
    mixture = Mixture([10**9], (1,), seed=1)
    samples = np.arange(size)
    mixture(samples)
    began = time.process_time()
    for number in range(1, ROUNDS + 1):
        mixture(samples + size * number)
    return {"ms_a_step": (time.process_time() - began) / ROUNDS * 1e3}
