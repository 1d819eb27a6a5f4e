"""A run of a million lines resumes as fast as a short one: no rank waits for rank 0 to read them."""

import json
import shutil

import pytest

from gpt2dist.run.metrics_file import MetricsHistory
from tests.support.events import events, points
from tests.support.runs import train, write_run

LINES = 10**6
TAGS = ("train/perplexity", "train/lr", "train/grad_norm", "train/loss_scale", "time/step", "memory/peak_gib")


def pad(path):
    """Put many lines in front of those that a run wrote, as a run has that logs for a month."""
    written = path.read_text()
    values = json.dumps({"train/loss": 3.25, **dict.fromkeys(TAGS, 1.2345678901234), "progress/tokens": 10})[1:]
    with path.open("w") as file:
        file.writelines(f'{{"step": 1, "time": {number / 10}, {values}\n' for number in range(LINES))
        file.write(written)


@pytest.mark.slow
def test_a_run_of_a_million_lines_resumes_on_two_ranks_within_a_short_timeout(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    words = ["monitoring.tensorboard=true", "evaluation.every_steps=4", "checkpoint.keep_best=eval/val/loss"]
    run = train(config, *words, "run.stop_after_steps=8", world_size=2)
    pad(run / "metrics.jsonl")
    known = points(events(run / "tensorboard"), "train/loss")
    assert [step for step, _ in known] == list(range(1, 9))
    words.append("run.timeout_seconds=10")
    train(config, *words, "run.stop_after_steps=12", world_size=2)
    history = MetricsHistory(run / "metrics.jsonl")
    assert [line["step"] for line in history.split(2)[1] if "train/loss" in line] == list(range(2, 13))
    shown = points(events(run / "tensorboard"), "train/loss")
    assert shown[:8] == known and [step for step, _ in shown] == list(range(1, 13))
    # without the event files, they are written again, some lines with each new one
    shutil.rmtree(run / "tensorboard")
    train(config, *words, "run.stop_after_steps=16", world_size=2)
    assert [line["step"] for line in history.split(2)[1] if "train/loss" in line] == list(range(2, 13))
    again = points(events(run / "tensorboard"), "train/loss")
    assert len(again) > 2000 and {value for _, value in again} == {3.25}
