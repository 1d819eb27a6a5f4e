"""The GPU of a rank: which one it is, whether another rank uses it too, and whether it computes in bf16."""

import inspect
import socket
from collections.abc import Callable
from typing import Any

import torch

from gpt2dist.errors import RankUserError, UserError


def own_gpu(local_rank: int) -> torch.device:
    """Return the GPU of the rank `local_rank` of this host.

    A process that sees one GPU uses it, whatever its rank: `srun --gpus-per-task=1` and container runtimes show
    each process its own. `require_own_gpus` finds ranks that were shown the same one.

    Raises:
        RankUserError: This process sees several GPUs, but none for its rank.
    """
    visible = torch.cuda.device_count()
    if visible > 1 and local_rank >= visible:
        raise RankUserError(
            f"local rank {local_rank} has no GPU: this process sees {visible}; start one process per GPU, "
            "or show each process only its own (`srun --gpus-per-task=1`)"
        )
    return torch.device("cuda", 0 if visible == 1 else local_rank)


def require_own_gpus(device: torch.device, gather: Callable[[Any], list[Any]]) -> None:
    """Check that no two ranks use the same GPU or MIG instance. Collective.

    Args:
        device: The GPU of this rank.
        gather: Returns the values of all ranks, on every rank.

    Raises:
        UserError: Two ranks use the same one; every rank raises it.
    """
    # The UUID of a MIG instance is its own, and not that of its GPU. Virtual GPUs of two hosts may share one.
    mine = socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid)
    first: dict[tuple[str, str], int] = {}
    for rank, place in enumerate(gather(mine)):
        other = first.setdefault(place, rank)
        if other != rank:
            host, uuid = place
            raise UserError(
                f"ranks {other} and {rank} share the GPU {uuid} of {host}; start at most one process per GPU. A "
                "process can use one MIG instance: set CUDA_VISIBLE_DEVICES of each to its own"
            )


def supports_bf16() -> bool:
    """Return whether the current GPU computes in bf16, and does not only emulate it, as V100 and T4 do."""
    supported = torch.cuda.is_bf16_supported
    if "including_emulation" in inspect.signature(supported).parameters:
        return supported(including_emulation=False)
    return supported()
