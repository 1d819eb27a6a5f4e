"""Poll for requests to stop or save before each micro-batch, with micro-batches of 10 ms."""

import time
from pathlib import Path

from light_ranks import run

from gpt2dist.distributed.world import join

TITLE = "polls for requests before micro-batches of 10 ms"
UNIT = "ranks"
SIZES = (2, 8, 32)
POLLS = 1000


def measure(size: int, directory: Path) -> dict[str, float]:
    """Poll many times, and return the CPU time of a poll on a rank."""
    seconds, exchanges = zip(*run(_poll, size, directory), strict=True)
    return {"cpu_ms_a_poll": 1e3 * sum(seconds) / size / POLLS, "exchanges": max(exchanges)}


def _poll() -> tuple[float, int]:
    from gpt2dist.training.stop import StopCoordinator, StopSignal

    world = join()
    coordinator = StopCoordinator(world, StopSignal(), _NoWatchdog(), None)  # type: ignore[arg-type]
    exchanges = 0
    send = coordinator._send

    def counted() -> None:
        nonlocal exchanges
        exchanges += 1
        send()

    coordinator._send = counted  # type: ignore[method-assign]
    spent = 0.0
    for _ in range(POLLS):
        time.sleep(0.01)
        began = time.process_time()
        coordinator.poll()
        spent += time.process_time() - began
    coordinator.close()
    return spent, exchanges


class _NoWatchdog:
    def alive(self) -> None:
        """Accept a sign of life."""
