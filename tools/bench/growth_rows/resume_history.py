"""Resume of a long run: cut metrics.jsonl back, and continue TensorBoard's event files."""

import json
from pathlib import Path

import torch.utils.tensorboard  # noqa: F401 (importing it is not what is measured)

from gpt2dist.monitoring.tensorboard import TensorBoard
from gpt2dist.monitoring.trackers import Trackers
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.metrics_file import MetricsHistory, cut_back

TITLE = "resume with TensorBoard from a checkpoint 100 steps back"
UNIT = "lines of metrics.jsonl"
SIZES = (10**4, 10**5, 10**6)
TAGS = ("train/perplexity", "train/lr", "train/grad_norm", "train/loss_scale", "time/step", "memory/peak_gib")


def prepare(size: int, directory: Path) -> None:
    """Write the lines and the event files of a run."""
    run = RunDirectory(directory)
    values = json.dumps({"train/loss": 3.25, **dict.fromkeys(TAGS, 1.2345678901234)})[1:]
    with run.metrics.open("w") as file:
        file.writelines(f'{{"step": {step}, "time": {step / 10}, {values}\n' for step in range(1, size + 1))
    board = TensorBoard(run.tensorboard)
    for line in board.start({}, directory, MetricsHistory(run.metrics)):
        numbers = {tag: value for tag, value in line.items() if tag not in ("step", "time")}
        board.log(line["step"], line["time"], numbers)
    board.close(failed=False)


def measure(size: int, directory: Path) -> dict[str, float]:
    """Do what rank 0 does while the others wait; count the lines that are written again."""
    run = RunDirectory(directory)
    kept = cut_back(run.metrics, size - 100, True)
    trackers = Trackers({"TensorBoard": lambda: TensorBoard(run.tensorboard)})
    trackers.start({}, directory, kept)
    trackers.close(failed=False)
    (last,) = kept.at(size - 100)
    return {"kept_steps": last["step"]}
