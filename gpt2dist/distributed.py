"""The process group: who this rank is, and the few collectives that gpt2dist uses itself."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from gpt2dist.errors import RankUserError

TIMEOUT = timedelta(minutes=10)
"""After this long in a collective a rank gives the others up."""


@dataclass(frozen=True)
class World:
    """This process among the ranks.

    Attributes:
        rank: In [0, size).
        local_rank: Rank on this host; picks the GPU.
        size: Number of ranks.
        device: Where this rank computes.
    """

    rank: int
    local_rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which speaks and writes for all."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Adds a tensor over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Every rank's small picklable value, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, value)
        return out

    def from_main(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        return self.gather(value)[0]


def launched_world_size() -> int:
    """Ranks that the launcher started; 1 when there was no launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_rank() -> int:
    """This process's rank by its launcher; 0 when there was none."""
    return int(os.environ.get("RANK", "0"))


def join(timeout: timedelta = TIMEOUT) -> World:
    """Joins the process group that torchrun, deepspeed or srun set up, or makes one of a single rank.

    NCCL on GPUs with gloo beside it for Python objects, gloo alone on CPUs.

    Raises:
        RankUserError: More ranks than GPUs on this host.
    """
    rank, size = launched_rank(), launched_world_size()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise RankUserError(
                f"local rank {local_rank} has no GPU: this host has {torch.cuda.device_count()}; "
                "start at most one process per GPU"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if size == 1:  # no address or port is needed to talk to oneself
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
        else:
            dist.init_process_group(backend, timeout=timeout)
    return World(rank, local_rank, size, device)


def leave() -> None:
    """Leaves the process group, so that no warning ends the log."""
    if dist.is_initialized():
        dist.destroy_process_group()
