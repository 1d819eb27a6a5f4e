"""Check that a process may open as many files as a run needs."""

import os
import resource
from collections.abc import Iterator, Sequence

from gpt2dist.config import Problem
from gpt2dist.plan import TrainingSet, ValidationSet

RESERVED = 256
"""Open files of a rank beside those that depend on the run: of Python, CUDA, NCCL, gloo, logs and checkpoints."""


def check_open_files(
    world_size: int, training: Sequence[TrainingSet], validation: Sequence[ValidationSet]
) -> Iterator[Problem]:
    """Check that the hard limit of open files is enough for rank 0, which has a connection from each rank.

    Each shard that has been read stays open, on every rank. The ranks raise the soft limit themselves. Only
    rank 0 checks, since it needs the most and is the one that reports.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    shards = sum(len(each.dataset.shards_of("train")) for each in training)
    shards += sum(len(each.dataset.shards_of(each.split)) for each in validation)
    needed = RESERVED + world_size + shards
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        yield Problem(
            "data.train" if shards > world_size else "run.world_size",
            f"rank 0 needs up to {needed:,} open files: {world_size:,} for the ranks, {shards:,} for the shards "
            f"and {RESERVED} others. A process of this host may open only {hard:,} (`ulimit -Hn`); raise this "
            "limit: LimitNOFILE of slurmd under Slurm, `--ulimit nofile` of a container, LimitNOFILE of another "
            "service, else /etc/security/limits.conf",
        )
