"""Check the files of a checkpoint on all ranks together, which share the hashing."""

from pathlib import Path

from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.manifest import InvalidCheckpointError, Records
from gpt2dist.checkpoint.parts import deal
from gpt2dist.distributed.hosts import first_fault, leads_host, ranks_of_host
from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError


def find_fault(directory: Path, world: World) -> str:
    """Return the fault of a checkpoint; empty if it is valid. Collective.

    One rank of each host looks at all files, so a host that lacks them is noticed and named. Each file is hashed
    by one rank.

    Args:
        directory: The checkpoint, on a disk that all hosts share.
        world: This rank.
    """
    return _find_fault(directory, world, list(range(world.size)))


def require_whole_model(directory: Path, world: World, each_host: bool = False) -> None:
    """Check a checkpoint except its optimizer files. Accept a model directory, which has no manifest. Collective.

    Args:
        directory: The checkpoint or model directory.
        world: This rank.
        each_host: Whether each host hashes the files, since it may have a copy of its own.

    Raises:
        UserError: The checkpoint is invalid. Every rank raises it; the message names the file and the fault.
    """
    if not world.on_main(lambda: manifest.is_checkpoint(directory)):
        return
    ranks = ranks_of_host(world) if each_host else list(range(world.size))
    if fault := _find_fault(directory, world, ranks, without="optimizer-"):
        raise UserError(f"{directory}: not a complete checkpoint: {fault}; name another")


def _find_fault(directory: Path, world: World, ranks: list[int], without: str | None = None) -> str:
    """Return the first fault. This rank hashes its share among `ranks`."""
    files: Records = {}
    fault = ""
    try:
        if leads_host(world):
            files = manifest.read(directory, without)
    except InvalidCheckpointError as reason:
        fault = str(reason)
    files = world.from_main(files)
    shares = deal({name: record["bytes"] for name, record in files.items()}, len(ranks))
    mine = ranks.index(world.rank)
    if mine < len(shares) and not fault:
        try:
            manifest.check_contents(directory, files, sorted(shares[mine]))
        except InvalidCheckpointError as reason:
            fault = str(reason)
    return first_fault(world, fault)
