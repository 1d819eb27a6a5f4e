import json
import socket
import time

import pytest


class MadeUpRun:
    """A run directory as training leaves one, made of what a test wants in it."""

    def __init__(self, directory, total_steps=100, stop_after_steps="null"):
        self.directory = directory
        (directory / "logs").mkdir(parents=True)
        self.write("environment.json", {"total_steps": total_steps})
        (directory / "config.yaml").write_text(
            f"run: {{stop_after_steps: {stop_after_steps}, timeout_seconds: 600}}\n"
        )

    def write(self, name, value):
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value) + "\n")
        return path

    def lock_by(self, host=None, pid=1):
        """What the last job wrote into the lock; by default one of this host. Nobody holds it."""
        return self.write("lock", {"host": host or socket.gethostname(), "pid": pid})

    def submit(self, ago, number=1, work="train", **facts):
        """What `gpt2dist submit` records of a job that Slurm was given so many seconds ago."""
        given = {"asked": {"job": work}, "scheduler": "slurm", "jobs": [4711], "submitted": time.time() - ago}
        return self.write(f"submission/{number:03d}/submission.json", given | facts).parent

    def train(self, steps, seconds=1.0, ended_ago=0.0, **more):
        """Lines of the steps 1 … `steps`, of which the last was written `ended_ago` seconds ago."""
        end = time.time() - ended_ago
        with (self.directory / "metrics.jsonl").open("w") as file:
            for step in range(1, steps + 1):
                known = {"step": step, "time": end - (steps - step) * seconds, "train/loss": 5 - step / 100}
                file.write(json.dumps(known | more) + "\n")

    def save(self, step):
        name = f"step-{step:08d}"
        self.write(f"checkpoints/{name}/manifest.json", {})
        (self.directory / "checkpoints/latest").write_text(name + "\n")


@pytest.fixture
def make_run(tmp_path):
    """Makes run directories: `make_run("name", total_steps=100)`."""
    return lambda name="run", **options: MadeUpRun(tmp_path / name, **options)
