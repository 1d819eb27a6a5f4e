"""A blend of many datasets: its start, and which window of which dataset is each of 4,096 samples."""

import time
from pathlib import Path

import numpy as np

from gpt2dist.loading.mixture import Mixture

TITLE = "blend: its start, and the order of 4,096 samples"
UNIT = "datasets"
SIZES = (2, 50, 500)
ROUNDS = 20


def measure(size: int, directory: Path) -> dict[str, float]:
    """Map the samples of many steps, in a blend whose turns are held as a table."""
    shares = np.random.default_rng(0).integers(1, 100, size).tolist()
    began = time.process_time()
    mixture = Mixture([1_000_003] * size, shares, seed=1)
    start = time.process_time() - began
    samples = np.arange(4096)
    mixture(samples)
    began = time.process_time()
    for number in range(1, ROUNDS + 1):
        mixture(samples + 4096 * number)
    return {"start_s": start, "ms_a_4096": (time.process_time() - began) / ROUNDS * 1e3}
