"""Small training runs for tests, through the same code as `gpt2dist train`."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from gpt2dist.preflight import resolve
from tests.support.ranks import run_ranks

SMALL_RUN = {
    "model": {"n_layer": 2, "n_head": 4, "n_embd": 32, "context_length": 32},
    "data": {"sequence_length": 32, "stride": 12, "loss_on": "new"},
    "batch": {"global_batch_size": 8, "micro_batch_size": 1},
    "optimizer": {"lr": 2e-3},
    "schedule": {"kind": "cosine", "warmup_steps": 5, "total_steps": 20},
    "monitoring": {"log_every_steps": 1, "tensorboard": False},
}

LARGE_MODEL = [
    f"zero.deepspeed.zero_optimization.{key}"
    for key in (
        "stage3_param_persistence_threshold=0",
        "stage3_prefetch_bucket_size=700",
        "stage3_max_live_parameters=2000",
        "stage3_max_reuse_distance=2000",
        "sub_group_size=1000",
        "reduce_bucket_size=700",
        "allgather_bucket_size=700",
    )
]
"""The regime of large models: ZeRO partitions every tensor, and sub-groups and buckets are smaller than most."""


def write_run(
    directory: Path, dataset: Path, validation: bool = False, blend: dict[Path, float] | None = None
) -> Path:
    """Writes the configuration of a small run on one dataset, or on those of `blend` with their weights."""
    config: dict[str, Any] = json.loads(json.dumps(SMALL_RUN))
    config["data"]["train"] = [{"path": str(dataset)}]
    if blend:
        config["data"]["train"] = [{"path": str(path), "weight": weight} for path, weight in blend.items()]
    if validation:
        config["data"]["validation"] = [{"name": "val", "path": str(dataset)}]
    config["run"] = {"output_dir": str(directory / "run")}
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def train_here(config_path: Path, overrides: list[str]) -> None:
    """What `gpt2dist train` does on one rank."""
    from gpt2dist.distributed import launch_environment
    from gpt2dist.distributed.world import join
    from gpt2dist.monitoring.logs import rank_logging
    from gpt2dist.training.setup import train

    config, plan = resolve(config_path, overrides, launch_environment.world_size())
    world = join()
    with rank_logging(config.output_dir, world.rank):
        train(config, plan, world)


def train_in_chunks(config_path: Path, overrides: list[str]) -> None:
    """The same with a chunked loss of 24 tokens at a time, so that a micro-batch of a test has several chunks."""
    from gpt2dist.model import chunks

    chunks.ROWS_MULTIPLE, chunks.LOGITS_PER_CHUNK = 24, 1
    train_here(config_path, [*overrides, "model.loss=chunked"])


def train_with_varlen(config_path: Path, overrides: list[str]) -> int:
    """The same with the attention kernel `varlen`, which needs a GPU; returns how often it was called."""
    from gpt2dist.model.gpt2 import LanguageModel
    from gpt2dist.training import setup
    from tests.support.varlen_on_cpu import varlen_on_cpu

    def build(*args: Any, **options: Any) -> LanguageModel:
        return LanguageModel(*args, **{**options, "attention": "varlen"})

    setup.LanguageModel = build  # type: ignore[assignment, misc]
    with varlen_on_cpu() as calls:
        train_here(config_path, overrides)
    return len(calls)


def train(config_path: Path, *overrides: str, world_size: int = 1) -> Path:
    """Trains on forked ranks and returns the run directory."""
    run_ranks(train_here, world_size, config_path, list(overrides))
    config, _ = resolve(config_path, list(overrides), world_size)
    return config.output_dir


def metrics(run: Path, tag: str) -> list[float]:
    """The values of a tag in metrics.jsonl, in the order of the lines."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[tag] for line in lines if tag in line]


def weights_of(directory: Path) -> dict[str, list[float]]:
    """Name → values, flat, of the weights in a model directory. Call it on a forked rank: it makes tensors."""
    found = {}
    for path in sorted(directory.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name).flatten().tolist() for name in file.keys()}  # noqa: SIM118
    return found


def train_with_signal(config, overrides, rank, number):
    """One rank is signalled at one of its beats."""
    from gpt2dist.training.stop import StopCoordinator

    poll, count = StopCoordinator.poll, iter(range(10**6))

    def poll_and_signal(self):
        if next(count) == number and os.environ["RANK"] == str(rank):
            os.kill(os.getpid(), signal.SIGTERM)
            while not self._signal.name:  # a thread notices it
                pass
        poll(self)

    StopCoordinator.poll = poll_and_signal
    train_here(config, overrides)


def train_with_bad_steps(config, overrides, bad, value):
    """In these steps (from 1) the loss of rank 1 is multiplied with something."""
    from gpt2dist.model.gpt2 import LanguageModel
    from gpt2dist.training.engine import Engine

    step, forward, count = Engine.train_step, LanguageModel.forward, iter(range(1, 1000))
    now = [0]

    def train_step(self, *args):
        now[0] = next(count)
        return step(self, *args)

    def spoiled(self, *args, **options):
        out = forward(self, *args, **options)
        wrong = now[0] in bad and os.environ["RANK"] == "1" and self.training
        return out * value if wrong else out

    Engine.train_step, LanguageModel.forward = train_step, spoiled
    train_here(config, overrides)
