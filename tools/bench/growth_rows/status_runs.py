"""`gpt2dist status` of a folder of runs: once, and again when nothing changed, as with --watch."""

import itertools
import json
import time
from pathlib import Path

import yaml  # noqa: F401 (importing it is not what is measured)

from gpt2dist.commands.status import look
from gpt2dist.config import Config
from gpt2dist.run.directory import RunDirectory

TITLE = "status of a folder of runs of 400 lines and 20 evaluations"
UNIT = "runs"
SIZES = (10, 100, 1000)
LINES = 400
TAGS = ("train/perplexity", "train/lr", "train/grad_norm", "train/loss_scale", "time/step", "memory/peak_gib")


def prepare(size: int, directory: Path) -> None:
    """Write the files of the runs that status reads."""
    values = json.dumps({"train/loss": 3.25, **dict.fromkeys(TAGS, 1.2345678901234)})[1:]
    lines = "".join(f'{{"step": {step}, "time": {step / 10}, {values}\n' for step in range(1, LINES + 1))
    for number in range(size):
        run = RunDirectory(directory / f"run-{number:05d}")
        for path in (run.logs, run.checkpoints / f"step-{LINES:08d}", run.evaluations, run.start(1).path):
            path.mkdir(parents=True)
        run.metrics.write_text(lines)
        run.config.write_text(Config.model_validate({"run": {"output_dir": run.path}}).to_yaml())
        for path in (run.environment, run.start(1).environment):
            path.write_text(json.dumps({"total_steps": 2 * LINES, "world_size": 8, "time": 1.0, "step": 0}))
        (run.checkpoints / f"step-{LINES:08d}/manifest.json").write_text("{}")
        run.latest.write_text(f"step-{LINES:08d}\n")
        run.lock.write_text('{"host": "another"}')
        for step in range(20, LINES + 1, 20):
            (run.evaluations / f"step-{step:08d}.json").write_text('{"val": {"loss": 3.0, "perplexity": 20.0}}')


def measure(size: int, directory: Path) -> dict[str, float]:
    """Read all statuses twice."""
    marks = [time.process_time()]
    for _ in range(2):
        look(directory)
        marks.append(time.process_time())
    first, again = ((end - begin) / size * 1e3 for begin, end in itertools.pairwise(marks))
    return {"ms_a_run_first": first, "ms_a_run_again": again}
