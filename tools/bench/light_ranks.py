"""Fork ranks that do one piece of work, to measure what grows with their number. One rank takes a few MiB."""

import gc
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gpt2dist.distributed.world import leave

torch.set_num_threads(1)


def run(work: Callable[[], Any], size: int, directory: Path) -> list[Any]:
    """Call `work` on each of `size` ranks, and return the results in rank order.

    Args:
        work: The work; its result must be picklable. It need not leave the other ranks.
        size: Number of ranks.
        directory: An existing directory for the results.

    Raises:
        RuntimeError: A rank failed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [_fork(work, rank, size, port, directory / f"{size}-{rank}") for rank in range(size)]
    failed = [rank for rank, child in enumerate(children) if os.waitpid(child, 0)[1]]
    if failed:
        raise RuntimeError(f"ranks {failed} failed")
    return [pickle.loads((directory / f"{size}-{rank}").read_bytes()) for rank in range(size)]


def _fork(work: Callable[[], Any], rank: int, size: int, port: int, result: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        gc.freeze()
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        result.write_bytes(pickle.dumps(work()))
        dist.all_reduce(torch.zeros(1))  # rank 0 holds the store, and must not leave before the others are done
        leave()
        code = 0
    finally:
        os._exit(code)
