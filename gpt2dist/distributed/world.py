"""The process group: who this rank is, and the few collectives that gpt2dist uses itself."""

import contextlib
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from gpt2dist.distributed import launch_environment
from gpt2dist.errors import PeerLostError, RankUserError, RunError, UserError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""After this long in a collective a rank gives the others up, unless it is told otherwise."""


JOIN_POLL_SECONDS = 0.02


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

    @property
    def device_bytes(self) -> int | None:
        """Memory of this rank's GPU; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.get_device_properties(self.device).total_memory

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Adds a tensor over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all(self, flag: bool) -> bool:
        """Whether the flag is set on every rank."""
        if self.size == 1:
            return flag
        missing = torch.tensor([0 if flag else 1])
        dist.all_reduce(missing)
        return missing.item() == 0

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

    def on_main(self, work: Callable[[], T]) -> T:
        """Does on rank 0 what one rank is to do for all. Collective.

        Args:
            work: What rank 0 does; its result must be small and picklable.

        Returns:
            What `work` returned, on every rank.

        Raises:
            UserError: `work` raised one; every rank does.
        """
        value, fault = None, ""
        if self.is_main:
            try:
                value = work()
            except UserError as error:
                fault = str(error)
        value, fault = self.from_main((value, fault))
        if fault:
            raise UserError(fault)
        return value


GLOO_LOST_A_PEER = re.compile(
    r"\[(?!enforce)[^\]]*gloo/transport/\w+/(pair|buffer|unbound_buffer)\.cc:\d+\] "
    r"|Application timeout caused pair closure"
)
"""How gloo's own errors start: plain RuntimeErrors, whose place in gloo's sources tells them from others."""
NCCL_LOST_A_PEER = re.compile("ncclRemoteError|NCCL communicator was aborted|collective operation timeout")
"""NCCL's result codes and c10d's texts for another rank's end. An invalid use, for one, is this rank's own."""


def is_peer_loss(error: BaseException) -> bool:
    """Return whether an exception of c10d means that another rank, its host or the network is gone."""
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
        return True
    if isinstance(error, dist.DistBackendError):
        return bool(NCCL_LOST_A_PEER.search(str(error)))
    return type(error) is RuntimeError and bool(GLOO_LOST_A_PEER.match(str(error)))


@contextlib.contextmanager
def lost_peers() -> Iterator[None]:
    """Raise c10d's errors about a lost rank as PeerLostError, with the same text."""
    try:
        yield
    except Exception as error:
        if is_peer_loss(error):
            raise PeerLostError(str(error)) from error
        raise


class FlagExchange:
    """What any rank wishes, made known to all of them at the same place without waiting for anybody.

    Each poll sends this rank's wishes and returns those of the poll before, by a reduction on the CPU that runs
    beside the work; so a rank waits only for one that is a whole poll behind.

    Args:
        world: This rank. Making an exchange is collective.
    """

    def __init__(self, world: World):
        # A group of its own: its order is not tied to that of the training's collectives.
        self._group = dist.new_group(backend="gloo") if world.size > 1 else None
        self._sent: tuple[torch.Tensor, dist.Work] | None = None

    def poll(self, *wishes: bool) -> tuple[bool, ...]:
        """Returns for each wish whether any rank had it at the poll before; alone, at this one. Collective."""
        if self._group is None:
            return wishes
        known = self.settle() or (False,) * len(wishes)
        flags = torch.tensor([int(wish) for wish in wishes], dtype=torch.int32)
        work = dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work
        self._sent = flags, work
        return known

    def settle(self) -> tuple[bool, ...]:
        """Waits for the wishes that are under way and returns them; empty if none are. Collective."""
        if not self._sent:
            return ()
        (flags, work), self._sent = self._sent, None
        work.wait()
        return tuple(flags.bool().tolist())


def join(timeout: timedelta = TIMEOUT) -> World:
    """Joins the process group that torchrun, deepspeed or srun set up, or makes one of a single rank.

    NCCL on GPUs with gloo beside it for Python objects, gloo alone on CPUs.

    Raises:
        RankUserError: More ranks than GPUs on this host.
        RunError: The other ranks did not come.
    """
    rank, local_rank, size = (
        launch_environment.rank(),
        launch_environment.local_rank(),
        launch_environment.world_size(),
    )
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
            store = _session_of(dist.rendezvous("env://", rank, size, timeout=timeout), timeout)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    return World(rank, local_rank, size, device)


def _session_of(rendezvous: Iterator[tuple[dist.Store, int, int]], timeout: timedelta) -> dist.Store:
    """A store in which nothing lies from an earlier start of the same job.

    torchrun keeps its store when it restarts the ranks, and these would find the addresses of dead ones in it
    (pytorch issue 135712; its restart count is no help, since hosts count apart). So rank 0 names a session of
    its own: it repeats what it heard from the others until each has found its own word in that and said so.
    """
    try:
        store, rank, size = next(rendezvous)
    except dist.DistError as error:
        raise RunError(f"the ranks did not meet within {timeout} ({error}); look at the logs of each") from error
    mine, others = uuid.uuid4().hex, range(1, size)
    session = mine if rank == 0 else ""

    def is_settled() -> bool:
        nonlocal session
        if rank == 0:
            if all(_read(store, f"joined/{other}") == mine for other in others):
                return True
            store.set("session", " ".join([mine, *(_read(store, f"here/{other}") for other in others)]))
            return False
        heard = _read(store, "session").split(" ")
        if heard[rank : rank + 1] != [mine]:
            return False
        session = heard[0]
        store.set(f"joined/{rank}", session)
        return True

    store.set(f"here/{rank}", mine)
    deadline = time.monotonic() + timeout.total_seconds()
    while not is_settled():
        if time.monotonic() > deadline:
            raise RunError(f"rank {rank} waited {timeout} for the other {size - 1}; look at the logs of each")
        time.sleep(JOIN_POLL_SECONDS)
    return dist.PrefixStore(session, store)


def _read(store: dist.Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def leave() -> None:
    """Leaves the process group, so that no warning ends the log."""
    if dist.is_initialized():
        dist.destroy_process_group()
