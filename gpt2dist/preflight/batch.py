"""The batch: how many windows a step takes, and how the ranks share them."""

from collections.abc import Iterator

from gpt2dist.config import Config, Problem
from gpt2dist.preflight.words import alternatives, divisors


def check_batch(config: Config, world_size: int) -> Iterator[Problem]:
    """What is wrong with the batch at a world size."""
    batch = config.batch
    per_pass = batch.micro_batch_size * world_size
    if batch.global_batch_size % per_pass:
        lower = batch.global_batch_size // per_pass * per_pass
        ways = [f"global_batch_size {alternatives(size for size in (lower, lower + per_pass) if size)}"]
        if batch.global_batch_size % world_size == 0:
            fitting = divisors(batch.global_batch_size // world_size)[-8:]
            ways.append(f"micro_batch_size {alternatives(fitting)}")
        yield Problem(
            "batch.global_batch_size",
            f"{batch.global_batch_size} is not a multiple of micro_batch_size {batch.micro_batch_size} × "
            f"world size {world_size} = {per_pass}; would fit: {', or '.join(ways)}",
            also=("batch.micro_batch_size",),
        )
