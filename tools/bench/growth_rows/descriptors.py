"""Open files of rank 0 when the ranks have joined, and what each sends and receives has been used once."""

from pathlib import Path

from light_ranks import run

from gpt2dist.distributed.world import BackgroundMaximum, join

TITLE = "open files of a rank, after joining and a few collectives"
UNIT = "ranks"
SIZES = (8, 16, 32)
FILES = Path("/proc/self/fd")


def measure(size: int, directory: Path) -> dict[str, float]:
    """Join, communicate, and count the open files."""
    counts = run(_count, size, directory)
    return {"rank_0": counts[0], "largest_other": max(counts[1:])}


def _count() -> int:
    before = len(list(FILES.iterdir()))
    world = join()
    maximum = BackgroundMaximum(world)
    maximum.send(world.rank)
    maximum.settle()
    world.from_main(world.rank)
    world.first("")
    return len(list(FILES.iterdir())) - before
