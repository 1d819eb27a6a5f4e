"""Runs a function on several forked ranks: seconds for a multi-process test instead of a launcher's ten.

The parent imports torch, deepspeed and transformers once and does no tensor work, so that its forks are safe.
"""

import contextlib
import functools
import gc
import io
import multiprocessing
import multiprocessing.connection
import os
import pickle
import random
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo

# Imported here, once, for all forks: what training imports, and what stage 3 imports as it begins.
import gpt2dist.training.engine
import gpt2dist.training.setup  # noqa: F401

torch.set_num_threads(1)

TIMEOUT = 120.0
"""Seconds after which the ranks of a test are killed."""


class RankFailedError(Exception):
    """A rank raised; the message holds its traceback."""


def run_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = TIMEOUT, **options: Any
) -> list[Any]:
    """Calls `function(*args, **options)` on every rank, with a launcher's environment.

    Returns:
        What each rank returned, in rank order; it must be picklable and hold no tensors.

    Raises:
        RankFailedError: The first rank that raised, with its traceback, or which ranks hung or died.
    """
    pipes, processes = _start(functools.partial(function, *args, **options), world_size)
    try:
        return _collect(pipes, time.monotonic() + timeout)
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


def exit_codes(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = TIMEOUT) -> list[int]:
    """Calls a function as `run_ranks` does, and returns how each rank ended; -9 for those that never did."""
    _, processes = _start(functools.partial(function, *args), world_size)
    deadline = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _start(function: Callable[[], Any], world_size: int) -> tuple[list[Any], list[Any]]:
    context = multiprocessing.get_context("fork")
    port = free_port()
    pipes, processes = [], []
    for rank in range(world_size):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(function, rank, world_size, port, sender), daemon=True)
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    return pipes, processes


def _collect(pipes: list[Any], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        waiting = {pipe: rank for rank, pipe in enumerate(pipes) if rank not in results}
        ready = multiprocessing.connection.wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankFailedError(f"ranks {sorted(waiting.values())} were still busy at the time limit")
        for pipe in ready:
            rank = waiting[pipe]
            try:
                good, payload = pickle.loads(pipe.recv_bytes())
            except EOFError:
                raise RankFailedError(f"rank {rank} died without a word") from None
            if not good:
                raise RankFailedError(f"rank {rank}:\n{payload}")
            results[rank] = payload
    return [results[rank] for rank in range(len(pipes))]


def _rank(function: Callable[[], Any], rank: int, size: int, port: int, sender: Any) -> None:
    gc.freeze()  # a collection would touch, and so copy, all that the parent has imported
    # torch makes its thread pool anew at its first use after a fork, which several threads must not be at once.
    torch.set_num_threads(torch.get_num_threads())
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        outcome = (True, function())
    except BaseException:
        text = io.StringIO()
        traceback.print_exc(file=text)
        outcome = (False, text.getvalue())
    sender.send_bytes(pickle.dumps(outcome))
    sender.close()
    if outcome[0]:
        from gpt2dist.distributed.world import leave

        leave()
    os._exit(0)  # threads of the libraries must not keep the rank alive


def free_port() -> int:
    """A port to listen on: below those that the kernel gives to whoever connects, and launchers' fixed ones."""
    draw = random.SystemRandom()  # tests that run side by side may have the same seed
    while True:
        port = draw.randrange(16384, 29000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
