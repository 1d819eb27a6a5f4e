"""Import what training needs, in as many processes as a host has ranks."""

import subprocess
import sys
from pathlib import Path

TITLE = "import of training.setup"
UNIT = "ranks"
SIZES = (1, 2, 4)
COUNT = "import sys, gpt2dist.training.setup; print(len(sys.modules))"


def measure(size: int, directory: Path) -> dict[str, float]:
    """Import it in `size` processes at a time."""
    started = [
        subprocess.Popen([sys.executable, "-c", COUNT], stdout=subprocess.PIPE, text=True) for _ in range(size)
    ]
    counts = [int(process.communicate(timeout=300)[0]) for process in started]
    return {"modules": max(counts)}
