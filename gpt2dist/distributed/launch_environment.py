"""What torchrun, deepspeed or srun told this process when it started it. Free of torch."""

import os


def rank() -> int:
    """This process among all; 0 when there was no launcher."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process among those of this host; 0 when there was no launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Ranks that the launcher started; 1 when there was no launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))
