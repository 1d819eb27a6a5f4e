"""Open a dataset on a host of eight ranks of a job of 1,024: the files whose size each rank asks for."""

import dataclasses
import os
import pickle
from pathlib import Path
from typing import Any

import yaml

from gpt2dist.api.train import HostPlan
from gpt2dist.config import read
from gpt2dist.dataset.manifest import Manifest, ShardRecord
from gpt2dist.loading import token_stream

TITLE = "open a dataset, on a host of 8 ranks of 1,024"
UNIT = "shards"
SIZES = (100, 1_000, 10_000)
TOKENS = 100_000_000
RANKS = range(8, 16)
RUN = {
    "model": {"preset": "gpt2-124m"},
    "batch": {"global_batch_size": 1024, "micro_batch_size": 1},
    "optimizer": {"lr": 1e-3},
    "schedule": {"total_steps": 10},
}


@dataclasses.dataclass
class Rank:
    """A rank that receives what the first of its host has found."""

    rank: int
    found: Any = None
    received: int = 0

    def broadcast(self, value: Any) -> Any:  # noqa: D102
        if value is not None:
            Rank.found = pickle.dumps(value)
        self.received = len(Rank.found)
        return pickle.loads(Rank.found)

    def gather(self, value: Any) -> list[Any]:  # noqa: D102
        return [value]


def prepare(size: int, directory: Path) -> None:
    """Write a manifest, empty indices and sparse files of tokens, and the configuration of a run."""
    dataset = directory / "dataset"
    dataset.mkdir()
    records = []
    for number in range(size):
        name = f"train-{number:05d}"
        (dataset / f"{name}.idx").write_bytes(b"index")
        (dataset / f"{name}.bin").touch()
        os.truncate(dataset / f"{name}.bin", 2 * TOKENS)
        hashes = dict.fromkeys(("bin", "idx", "origins"), f"{number:064x}")
        records.append(ShardRecord(name, "train", TOKENS, 10**5, 4 * TOKENS, TOKENS, hashes))
    Manifest("tokenizer", 50257, 50256, "uint16", {}, {}, tuple(records)).save(dataset)
    run = RUN | {"data": {"train": [{"path": str(dataset)}]}, "run": {"output_dir": str(directory / "run")}}
    (directory / "run.yaml").write_text(yaml.safe_dump(run))


def measure(size: int, directory: Path) -> dict[str, float]:
    """Start each rank of the host up to its plan, one after the other."""
    counts = dict.fromkeys(RANKS, 0)
    ranks = []
    size_of = token_stream._file_size
    for number in RANKS:

        def counted(path: Path, number: int = number) -> int | None:
            counts[number] += 1
            return size_of(path)

        token_stream._file_size = counted
        os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number - RANKS[0]), "WORLD_SIZE": "1024"}
        config, wrong = read(directory / "run.yaml", [])
        ranks.append(Rank(number))
        _, plan = HostPlan(config, "run.yaml", wrong).share(ranks[-1])  # type: ignore[arg-type]
        assert len(plan.datasets[0].dataset.shards) == size
    return {
        "stats_first_rank": counts[RANKS[0]],
        "stats_other_rank": counts[RANKS[-1]],
        "stats_host": sum(counts.values()),
        "plan_bytes": ranks[-1].received,
    }
