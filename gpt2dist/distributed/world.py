"""The process group: this rank, and the few collectives that gpt2dist uses directly."""

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

from gpt2dist.distributed import launch_environment, peer_monitor
from gpt2dist.distributed.addresses import choose_address
from gpt2dist.distributed.gpu import own_gpu, require_own_gpus
from gpt2dist.errors import PeerLostError, RunError, UserError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""Default timeout of a collective, after which a rank gives up on the others."""

JOIN_POLL_SECONDS = 0.02
GLOO_LOST_A_PEER = re.compile(
    r"\[(?!enforce)[^\]]*gloo/transport/\w+/(pair|buffer|unbound_buffer)\.cc:\d+\] "
    r"|Application timeout caused pair closure"
)
"""Start of gloo's own errors: plain RuntimeErrors, recognisable only by the source file that they name."""
NCCL_LOST_A_PEER = re.compile("ncclRemoteError|NCCL communicator was aborted|collective operation timeout")
"""NCCL's result codes and c10d's texts if another rank is lost. Invalid usage, for one, is this rank's error."""


@dataclass(frozen=True)
class World:
    """One rank of the process group.

    Attributes:
        rank: This process's rank, in [0, size).
        local_rank: Rank on this host, which selects the GPU if this process sees several.
        size: Number of ranks.
        device: Device of this rank.
    """

    rank: int
    local_rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes files for all ranks."""
        return self.rank == 0

    @property
    def device_bytes(self) -> int | None:
        """Memory of this rank's GPU in bytes; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.get_device_properties(self.device).total_memory

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over the ranks in place, and return it. Collective."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all(self, flag: bool) -> bool:
        """Return whether the flag is set on every rank. Collective."""
        if self.size == 1:
            return flag
        missing = torch.tensor([0 if flag else 1])
        dist.all_reduce(missing)
        return missing.item() == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the small picklable values of all ranks, in rank order, on every rank. Collective."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, value)
        return out

    def from_main(self, value: Any) -> Any:
        """Return rank 0's value on every rank. Collective."""
        return self.gather(value)[0]

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's picklable value of any size on every rank; others' are ignored. Collective."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def on_main(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0 and share its result. Collective.

        Args:
            work: Function to run; its result must be small and picklable.

        Returns:
            What `work` returned, on every rank.

        Raises:
            UserError: `work` raised a UserError; every rank raises it.
            PeerLostError: `work` raised anything else; rank 0 raises that exception itself.
        """
        value, fault, failure = None, "", ""
        if self.is_main:
            try:
                value = work()
            except UserError as error:
                fault = str(error)
            except Exception as error:
                self.from_main((None, "", f"{type(error).__name__}: {error}"))
                raise
        value, fault, failure = self.from_main((value, fault, failure))
        if fault:
            raise UserError(fault)
        if failure:
            raise PeerLostError(f"rank 0 failed: {failure}")
        return value


def is_peer_loss(error: BaseException) -> bool:
    """Return whether an exception of c10d means that another rank, its host or the network is gone."""
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
        return True
    if isinstance(error, dist.DistBackendError):
        return bool(NCCL_LOST_A_PEER.search(str(error)))
    return type(error) is RuntimeError and bool(GLOO_LOST_A_PEER.match(str(error)))


@contextlib.contextmanager
def lost_peers() -> Iterator[None]:
    """Raise c10d's errors about a lost rank as PeerLostError.

    Its text names the rank if the monitor knows it; otherwise it is that of the error.
    """
    try:
        yield
    except PeerLostError:
        peer_monitor.notice()
        raise
    except Exception as error:
        if is_peer_loss(error):
            raise PeerLostError(peer_monitor.wait_for_loss() or str(error)) from error
        raise


class FlagExchange:
    """Non-blocking exchange of flags, which all ranks receive at the same point of their work.

    Each poll sends this rank's flags and returns the combined flags of the previous poll. The reduction runs on
    the CPU in the background, so a rank waits only for ranks that are a whole poll late.

    Args:
        world: This rank. Creating an exchange is collective.
    """

    def __init__(self, world: World):
        # A separate group, so that its collectives need no fixed order relative to those of training.
        self._group = dist.new_group(backend="gloo") if world.size > 1 else None
        self._sent: tuple[torch.Tensor, dist.Work] | None = None

    def poll(self, *raised: bool) -> tuple[bool, ...]:
        """Return whether any rank raised each flag at the previous poll (alone: at this one). Collective."""
        if self._group is None:
            return raised
        known = self.settle() or (False,) * len(raised)
        flags = torch.tensor([int(flag) for flag in raised], dtype=torch.int32)
        work = dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work
        self._sent = flags, work
        return known

    def settle(self) -> tuple[bool, ...]:
        """Wait for the pending exchange and return its result; empty if none is pending. Collective."""
        if not self._sent:
            return ()
        (flags, work), self._sent = self._sent, None
        work.wait()
        return tuple(flags.bool().tolist())


def join(timeout: timedelta = TIMEOUT) -> World:
    """Join the process group that torchrun, deepspeed or srun set up, or create one of a single rank.

    On GPUs it uses NCCL, and gloo for CPU tensors; on CPUs, gloo only. Several ranks start a `PeerMonitor`, which
    from then on ends this process if another rank is lost.

    Raises:
        RankUserError: This process sees several GPUs, but none for its rank, or this host has no network
            interface for gloo.
        UserError: Two ranks use the same GPU.
        RunError: The other ranks did not join within `timeout`.
    """
    rank, local_rank, size = (
        launch_environment.rank(),
        launch_environment.local_rank(),
        launch_environment.world_size(),
    )
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = own_gpu(local_rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if size == 1:  # a single rank needs no address or port
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
        else:
            store = _session_of(dist.rendezvous("env://", rank, size, timeout=timeout), timeout)
            address = choose_address(store, rank, size)
            peer_monitor.start(store, rank, size, address, timeout.total_seconds())
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    world = World(rank, local_rank, size, device)
    if device.type == "cuda" and size > 1:
        require_own_gpus(device, world.gather)  # before the first use of NCCL, whose message names no cause
    return world


def _session_of(rendezvous: Iterator[tuple[dist.Store, int, int]], timeout: timedelta) -> dist.Store:
    """Return a store without entries from an earlier start of the same job.

    torchrun keeps its store when it restarts the ranks, which would then find addresses of exited ranks in it
    (pytorch issue 135712). torchrun's restart count does not help, because each host counts separately. So the
    ranks agree on a new session: rank 0 keeps publishing its own id and those it has read from the other ranks,
    until each of them has found its id there and confirmed the session.
    """
    try:
        store, rank, size = next(rendezvous)
    except dist.DistError as error:
        raise RunError(f"the ranks did not connect in {timeout} ({error}); see the log of each rank") from error
    mine, others = uuid.uuid4().hex, range(1, size)
    session = mine if rank == 0 else ""

    def is_settled() -> bool:
        nonlocal session
        if rank == 0:
            if all(_read(store, f"joined/{other}") == mine for other in others):
                return True
            store.set("session", " ".join([mine, *(_read(store, f"here/{other}") for other in others)]))
            return False
        published = _read(store, "session").split(" ")
        if published[rank : rank + 1] != [mine]:
            return False
        session = published[0]
        store.set(f"joined/{rank}", session)
        return True

    store.set(f"here/{rank}", mine)
    deadline = time.monotonic() + timeout.total_seconds()
    while not is_settled():
        if time.monotonic() > deadline:
            raise RunError(f"rank {rank} waited {timeout} for the other {size - 1}; see the log of each rank")
        time.sleep(JOIN_POLL_SECONDS)
    return dist.PrefixStore(session, store)


def _read(store: dist.Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def leave() -> None:
    """Leave the process group, which avoids a warning in the log, and say goodbye to the other ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()
    peer_monitor.goodbye()  # last, so that leaving cannot hang for a rank that is lost meanwhile
