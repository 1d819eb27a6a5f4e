"""`gpt2dist report` of a long run."""

import json
from pathlib import Path

from gpt2dist.report.page import report
from gpt2dist.run.directory import RunDirectory

TITLE = "report of a run"
UNIT = "lines of metrics.jsonl"
SIZES = (10**4, 10**5, 10**6)
TAGS = ("train/perplexity", "train/lr", "train/grad_norm", "train/loss_scale", "time/step", "memory/peak_gib")


def prepare(size: int, directory: Path) -> None:
    """Write the lines of a run."""
    values = json.dumps({"train/loss": 3.25, **dict.fromkeys(TAGS, 1.2345678901234)})[1:]
    with RunDirectory(directory).metrics.open("w") as file:
        file.writelines(f'{{"step": {step}, "time": {step / 10}, {values}\n' for step in range(1, size + 1))


def measure(size: int, directory: Path) -> dict[str, float]:
    """Make the page."""
    return {"page_bytes": len(report([directory]))}
