"""Resume in the middle of a dataset: the samples of the first step after a seek, without reading tokens."""

import time
from pathlib import Path

import numpy as np

from gpt2dist.loading.mixture import Mixture
from gpt2dist.loading.windows import Windows

TITLE = "seek to the middle of a dataset, order of a step of 1,024 windows"
UNIT = "tokens"
SIZES = (10**9, 3 * 10**10, 10**12)
ROUNDS = 50


def measure(size: int, directory: Path) -> dict[str, float]:
    """Map the samples of one step to places in the stream, as after a resume."""
    began = time.process_time()
    for seed in range(ROUNDS):
        windows = Windows(size, 1024, 1024)
        _, indices = Mixture([len(windows)], (1,), seed)(len(windows) // 2 + np.arange(1024))
        windows.starts(indices), windows.owned(indices)
    return {"ms_a_seek": (time.process_time() - began) / ROUNDS * 1e3}
