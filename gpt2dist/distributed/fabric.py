"""Measure what connects the ranks, and their hosts: bandwidth, clocks, disks and GPUs.

Each measurement has a budget of seconds that does not depend on the number of ranks. All ranks of a measurement
work at once, as in training. Point-to-point bandwidth is measured in rounds of pairs: first the neighbours along
a ring, so that each member has two partners and a slow link differs from a slow member, then member i with
i + N/2, which crosses the middle of the network. The members are the ranks of each host, and then the hosts, of
which each rank exchanges messages with the rank of the same place on the other host. This takes at most eight
rounds.
"""

import contextlib
import os
import re
import shutil
import socket
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from gpt2dist.distributed import peer_monitor
from gpt2dist.distributed.world import World
from gpt2dist.errors import RankRunError

MIB = 1 << 20
SECONDS = 1.0
"""Default budget of a measurement."""
CLOCK_ROUNDS = 9
WRITTEN_TOGETHER = 8 * MIB
SYNCED_TOGETHER = 4 * WRITTEN_TOGETHER
LARGEST_FILE = 1024 * MIB
SPARE_BYTES = 256 * MIB
"""Space that the test file leaves free."""
VISIBLE_SECONDS = 5.0
"""Time after which a new file must be visible on all hosts that share a directory."""
DRIVER = Path("/proc/driver/nvidia/version")

LONGEST_DISK_SECONDS = 25.0
"""Time after which a disk is said to be stuck."""

WITHIN, BETWEEN, ACROSS = "within hosts", "between hosts", "across the network"
"""Kinds of exchanges: of ranks of a host, of neighbours in the ring of hosts, and of hosts i and i + N/2."""


@dataclass(frozen=True)
class Load:
    """What is measured on a kind of device.

    Attributes:
        message: Bytes of the largest message.
        size: Rows and columns of the matrices whose product is timed.
        dtype: Their dtype.
    """

    message: int
    size: int
    dtype: torch.dtype


LOADS = {"cpu": Load(4 * MIB, 512, torch.float32), "cuda": Load(64 * MIB, 8192, torch.float16)}


@dataclass(frozen=True)
class Exchange:
    """What two ranks measured in one round.

    Attributes:
        kind: WITHIN, BETWEEN or ACROSS.
        partner: The other rank.
        rate: Bytes per second in each direction, both at once.
    """

    kind: str
    partner: int
    rate: float


@dataclass(frozen=True)
class Disk:
    """What the first rank of a host measured in the directory.

    Attributes:
        write: Bytes per second, flushed to the disk.
        read: Bytes per second, read again without the page cache.
        free: Bytes free.
        shared: Whether this host sees a file that rank 0 has made.
        fault: Why there are no rates; empty if there are.
    """

    write: float = 0.0
    read: float = 0.0
    free: int = 0
    shared: bool = True
    fault: str = ""


@dataclass(frozen=True)
class Measured:
    """What one rank measured.

    Attributes:
        host: Its host.
        versions: What must be alike on all hosts: name → version.
        product: Floating-point operations per second of a matrix product.
        all_reduce: Bytes per second and rank that an all-reduce moved, as NCCL's "bus bandwidth"; 0 for one rank.
        exchanges: The rounds in which it had a partner.
        clocks: `time.time()` after each of several barriers.
        disk: None unless it is the first rank of its host.
    """

    host: str
    versions: dict[str, str]
    product: float
    all_reduce: float
    exchanges: list[Exchange] = field(default_factory=list)
    clocks: list[float] = field(default_factory=list)
    disk: Disk | None = None


def measure(world: World, directory: Path, seconds: float = SECONDS, host: str | None = None) -> list[Measured]:
    """Measure everything, and return what each rank measured. Collective.

    Args:
        world: This rank.
        directory: Directory whose disk is measured. Each host writes a file of at most 1 GiB, and removes it.
        seconds: Budget of each of about a dozen measurements.
        host: Name of this host; None for that of the system.

    Raises:
        RankRunError: This rank lost the connection to its partner.
    """
    hosts = world.gather(host or socket.gethostname())
    product = multiply(world.device, seconds / 2)
    clocks = [_after_barrier(world) for _ in range(CLOCK_ROUNDS)]
    all_reduced = all_reduce(world, seconds)
    exchanges = [
        Exchange(kind, partners[world.rank], rate)
        for kind, partners in rounds(hosts)
        if (rate := exchange(world, partners.get(world.rank), seconds, hosts)) is not None
    ]
    marker = world.on_main(lambda: _mark(directory)) if world.size > 1 else None
    try:
        leads = hosts.index(hosts[world.rank]) == world.rank
        disk = _in_time(lambda: use_disk(directory, seconds, marker)) if leads else None
        mine = Measured(hosts[world.rank], versions(), product, all_reduced, exchanges, clocks, disk)
        return world.gather(mine)
    finally:
        if world.is_main and marker:
            marker.unlink(missing_ok=True)


def rounds(hosts: Sequence[str]) -> Iterator[tuple[str, dict[int, int]]]:
    """Yield the rounds of exchanges: a kind, and each rank's partner unless it has none.

    Args:
        hosts: The host of each rank.
    """
    ranks: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        ranks.setdefault(host, []).append(rank)
    groups = list(ranks.values())
    own = [[*ring_rounds(len(here)), *middle_round(len(here))] for here in groups]
    for number in range(max(map(len, own))):
        together = [(here, mine[number]) for here, mine in zip(groups, own, strict=True) if number < len(mine)]
        yield WITHIN, _both_ways([(here[one], here[other]) for here, pairs in together for one, other in pairs])
    for kind, found in ((BETWEEN, ring_rounds(len(groups))), (ACROSS, middle_round(len(groups)))):
        for pairs in found:
            alike = (zip(groups[one], groups[other], strict=False) for one, other in pairs)
            yield kind, _both_ways([pair for here in alike for pair in here])


def ring_rounds(number: int) -> list[list[tuple[int, int]]]:
    """Return at most three rounds of pairs, in which each of `number` members meets both neighbours of a ring."""
    ring = [(one, (one + 1) % number) for one in range(number if number > 2 else number - 1)]
    odd = number % 2  # then the last pair, of the last and the first, needs a round of its own
    found = [ring[: number - odd : 2], ring[1::2], ring[-1:] if odd else []]
    return [pairs for pairs in found if pairs]


def middle_round(number: int) -> list[list[tuple[int, int]]]:
    """Return the round of the pairs i and i + number/2; none if all of them are neighbours."""
    return [[(one, one + number // 2) for one in range(number // 2)]] if number >= 4 else []


def _both_ways(pairs: Sequence[tuple[int, int]]) -> dict[int, int]:
    return dict([*pairs, *((other, one) for one, other in pairs)])


def exchange(world: World, partner: int | None, seconds: float, hosts: Sequence[str]) -> float | None:
    """Exchange messages with a partner, and return the bytes per second in each direction. Collective.

    Args:
        world: This rank.
        partner: The other rank; None to wait for the other pairs only to begin.
        seconds: Budget. The lower rank decides when it is over.
        hosts: The host of each rank, for messages.
    """
    world.all(True)
    if partner is None:
        return None
    largest = load_of(world.device).message
    mine, theirs = (torch.zeros(largest, dtype=torch.uint8, device=world.device) for _ in range(2))
    decides = mine if world.rank < partner else theirs

    def swap(size: int) -> None:
        operations = [
            dist.P2POp(dist.isend, mine[:size], partner),
            dist.P2POp(dist.irecv, theirs[:size], partner),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    try:
        swap(1)  # connects them
        return _repeat(swap, mine, decides, seconds, largest)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        failure = RankRunError(
            f"rank {world.rank} on {hosts[world.rank]} cannot exchange messages with rank {partner} on "
            f"{hosts[partner]}: {reason}"
        )
        peer_monitor.tell(failure)
        raise failure from error


def all_reduce(world: World, seconds: float) -> float:
    """Sum tensors over all ranks, and return the bytes per second and rank that this moved. Collective.

    A ring moves 2 (N − 1)/N of a tensor through each rank's link, in each direction.
    """
    if world.size == 1:
        return 0.0
    largest = load_of(world.device).message
    tensor = torch.zeros(largest, dtype=torch.uint8, device=world.device)

    def reduce(size: int) -> None:
        dist.all_reduce(tensor[:size])

    reduce(1)
    tensor.zero_()
    rate = _repeat(reduce, tensor, tensor, seconds if world.is_main else float("inf"), largest)
    return rate * 2 * (world.size - 1) / world.size


def _repeat(
    send: Callable[[int], None],
    mine: torch.Tensor,
    received: torch.Tensor,
    seconds: float,
    largest: int,
) -> float:
    """Send messages of doubling size until the first byte of one says that it is the last.

    Args:
        send: Sends and receives a message of so many bytes.
        mine: The message that is sent.
        received: The message whose first byte counts.
        seconds: Time after which the first byte of `mine` is 1.
        largest: Bytes of the largest message.

    Returns:
        Bytes sent per second.
    """
    sent, size = 0, min(MIB, largest)
    began = time.perf_counter()
    while True:
        mine[0] = time.perf_counter() - began > seconds
        send(size)
        sent += size
        if received[0].item():  # which waits for the GPU
            return sent / (time.perf_counter() - began)
        size = min(2 * size, largest)


def multiply(device: torch.device, seconds: float) -> float:
    """Multiply matrices, and return the floating-point operations per second of the median product."""
    load = load_of(device)
    matrix = torch.rand(load.size, load.size, dtype=load.dtype, device=device)
    (matrix @ matrix)[0, 0].item()  # the first one loads the library
    times: list[float] = []
    while not times or sum(times) < seconds:
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # which waits for the GPU
        times.append(time.perf_counter() - began)
    return 2 * load.size**3 / statistics.median(times)


def load_of(device: torch.device) -> Load:
    """Return what is measured on a device."""
    return LOADS[device.type]


def _after_barrier(world: World) -> float:
    world.all(True)
    return time.time()


def _mark(directory: Path) -> Path | None:
    """Make an empty file of a new name; return None if that is impossible."""
    path = directory.absolute() / f".gpt2dist-check-{uuid.uuid4().hex}"
    try:
        path.touch(exist_ok=False)
    except OSError:
        return None
    return path


def use_disk(directory: Path, seconds: float, marker: Path | None = None) -> Disk:
    """Write a file, flush it, read it without the page cache, and remove it.

    Args:
        directory: Where.
        seconds: Budget of the writing, and of the reading.
        marker: A file that another host has made, if it shares the directory.
    """
    path = directory / f".gpt2dist-check-{uuid.uuid4().hex}"
    try:
        free = shutil.disk_usage(directory).free
        if free < SPARE_BYTES + SYNCED_TOGETHER:
            return Disk(free=free, shared=_appears(marker), fault="no space to write")
        try:
            write = _write(path, seconds, min(LARGEST_FILE, free - SPARE_BYTES))
            return Disk(write, _read(path, seconds), free, _appears(marker))
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        return Disk(shared=_appears(marker), fault=error.strerror or str(error))


def _in_time(work: Callable[[], Disk]) -> Disk:
    """Return what `work` returns, or a fault if it takes too long: a network disk may never answer."""
    found: list[Disk] = []
    thread = threading.Thread(target=lambda: found.append(work()), name="gpt2dist-disk", daemon=True)
    thread.start()
    thread.join(LONGEST_DISK_SECONDS)
    return found[0] if found else Disk(fault=f"no answer in {LONGEST_DISK_SECONDS:.0f} seconds")


def _write(path: Path, seconds: float, most: int) -> float:
    content, written = os.urandom(WRITTEN_TOGETHER), 0  # random, since some file systems compress
    with open(path, "xb", buffering=0) as file:
        began = time.perf_counter()
        while not written or (time.perf_counter() - began < seconds and written + SYNCED_TOGETHER <= most):
            for _ in range(SYNCED_TOGETHER // WRITTEN_TOGETHER):
                written += file.write(content)
            os.fsync(file.fileno())
        return written / (time.perf_counter() - began)


def _read(path: Path, seconds: float) -> float:
    buffer, found = bytearray(WRITTEN_TOGETHER), 0
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        while (size := file.readinto(buffer)) and time.perf_counter() - began < seconds:
            found += size
        return (found or size) / (time.perf_counter() - began)


def _appears(path: Path | None) -> bool:
    """Return whether a file of another host is visible here; True for None."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while path and not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def versions() -> dict[str, str]:
    """Return what must be alike on all hosts."""
    found = {"torch": str(torch.__version__)}
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
        with contextlib.suppress(OSError):
            driver = re.search(r"Kernel Module.*?\s(\d[\d.]+)", DRIVER.read_text())
            found["driver"] = driver[1] if driver else "unknown"
    return found
