"""Per-document evaluation: the index arithmetic of all batches, without reading or computing anything."""

import time
from pathlib import Path

import numpy as np

from gpt2dist.loading.windows import DocumentWindows

TITLE = "per-document evaluation, index of all batches of 8"
UNIT = "documents"
SIZES = (10_000, 100_000, 1_000_000)
BATCH = 8
MOST_BATCHES = 2_000
"""Batches that are computed; the time is extrapolated to all of them."""


def measure(size: int, directory: Path) -> dict[str, float]:
    """Compute what `score_windows` needs for a batch: starts, predicted and owned targets."""
    tokens = np.random.default_rng(0).integers(2, 900, size)
    windows = DocumentWindows(np.cumsum(tokens) - tokens, tokens, 1024, 512)
    batches = -(-len(windows) // BATCH)
    done = min(batches, MOST_BATCHES)
    began = time.process_time()
    for number in range(done):
        indices = np.arange(number * BATCH, min(len(windows), (number + 1) * BATCH))
        windows.starts(indices), windows.predicted(indices), windows.owned(indices)
    seconds = time.process_time() - began
    return {"batches": batches, "us_a_batch": seconds / done * 1e6, "all_batches_s": seconds / done * batches}
