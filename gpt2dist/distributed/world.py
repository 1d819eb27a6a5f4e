"""The process group: this rank, and the few collectives that gpt2dist uses directly."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from gpt2dist.distributed import launch_environment, open_files, peer_monitor, session
from gpt2dist.distributed.addresses import choose_address
from gpt2dist.distributed.gpu import own_gpu, require_own_gpus
from gpt2dist.errors import PeerLostError, RunError, UserError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""Default timeout of a collective, after which a rank gives up on the others."""

LAZY_CONNECTIONS = "TORCH_GLOO_LAZY_INIT"
"""Set to 1, gloo connects two ranks when they first communicate, instead of all with all in each group."""
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

    def exchange(
        self, sent: torch.Tensor, sent_sizes: list[int], received: torch.Tensor, received_sizes: list[int]
    ) -> None:
        """Send elements to each rank, and receive those that each rank sends to this one. Collective.

        Args:
            sent: A flat tensor on the device: what is for each rank, in rank order.
            sent_sizes: Number of its elements for each rank.
            received: A flat tensor of the same dtype, into which the others' elements are written in rank order.
            received_sizes: Number of elements from each rank.
        """
        dist.all_to_all_single(received, sent, received_sizes, sent_sizes)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set on any rank. Collective."""
        if self.size == 1:
            return flags
        raised = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return tuple(raised.bool().tolist())

    def first(self, text: str) -> str:
        """Return the text of the lowest rank that has one, on every rank; empty if none has one. Collective.

        Unlike `gather`, it moves O(1) bytes per rank, since usually no rank has a text, such as a fault.
        """
        if self.size == 1:
            return text
        lowest = torch.tensor([self.rank if text else self.size])
        dist.all_reduce(lowest, dist.ReduceOp.MIN)
        if lowest == self.size:
            return ""
        # By reductions, whose connections exist: new ones need the store, and rank 0, which may leave next.
        data = text.encode() if lowest == self.rank else b""
        length = torch.tensor([len(data)])
        dist.all_reduce(length, dist.ReduceOp.MAX)
        out = torch.zeros(int(length), dtype=torch.uint8)
        out[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
        dist.all_reduce(out, dist.ReduceOp.MAX)
        return bytes(out.tolist()).decode()

    def gather(self, value: Any) -> list[Any]:
        """Return the small picklable values of all ranks, in rank order, on every rank. Collective.

        Every rank receives O(size) bytes. Prefer `from_main`, `first` or `any` where they are enough.
        """
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, value)
        return out

    def from_main(self, value: Any) -> Any:
        """Return rank 0's picklable value, of any size, on every rank. Collective.

        A rank receives the value once. Unlike a reduction, this does not make rank 0 wait for the other ranks.
        """
        if self.size == 1:
            return value
        out = [value if self.is_main else None]
        dist.broadcast_object_list(out, src=0, device=torch.device("cpu"))
        return out[0]

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


class BackgroundMaximum:
    """The maximum over the ranks of a few integers, computed on the CPU while the ranks continue.

    All ranks call the methods at the same points of their work, in the same order as other collectives.

    Args:
        world: This rank.
    """

    def __init__(self, world: World):
        self._world = world
        self._sent: tuple[torch.Tensor, dist.Work | None] | None = None

    def send(self, *numbers: int) -> None:
        """Begin a reduction. The previous one must have been settled. Collective.

        Args:
            numbers: Integers of 64 bits. Their number is the same on all ranks.
        """
        assert not self._sent
        tensor = torch.tensor(numbers, dtype=torch.int64)
        work = dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True) if self._world.size > 1 else None
        self._sent = tensor, work

    def settle(self) -> tuple[int, ...]:
        """Wait for the pending reduction and return the maxima; empty if none is pending. Collective."""
        if not self._sent:
            return ()
        (tensor, work), self._sent = self._sent, None
        if work:
            work.wait()
        return tuple(tensor.tolist())


def join(timeout: timedelta = TIMEOUT) -> World:
    """Join the process group that torchrun, deepspeed or srun set up, or create one of a single rank.

    On GPUs it uses NCCL, and gloo for CPU tensors; on CPUs, gloo only. Several ranks start a `PeerMonitor`, which
    from then on ends this process if another rank is lost.

    With N ranks, a rank has O(log N) connections: gloo connects two ranks when they first communicate. Only the
    process that holds the store, which is rank 0 or torchrun on its host, has one with each rank.

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
        open_files.raise_limit()
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if size == 1:  # a single rank needs no address or port
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
        else:
            store = _store_of(rank, size, timeout)
            address = choose_address(store, rank, size)
            peer_monitor.start(store, rank, size, address, timeout.total_seconds())
            if sys.platform == "linux":  # elsewhere, gloo cannot
                os.environ.setdefault(LAZY_CONNECTIONS, "1")
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    world = World(rank, local_rank, size, device)
    # Connect the ranks that will communicate, while all are there: gloo takes an address from the store when two
    # ranks first communicate, and notices no exit before.
    world.from_main(None)
    world.all(True)
    if device.type == "cuda" and size > 1:
        require_own_gpus(device, world.gather)  # before the first use of NCCL, whose message names no cause
    return world


def _store_of(rank: int, size: int, timeout: timedelta) -> dist.Store:
    """Return the store of this start of the job, without entries of earlier ones. Collective."""
    try:
        store, *_ = next(dist.rendezvous("env://", rank, size, timeout=timeout))
    except dist.DistError as error:
        raise RunError(f"the ranks did not connect in {timeout} ({error}); see the log of each rank") from error
    return dist.PrefixStore(session.agree(store, rank, size, timeout), store)


def leave() -> None:
    """Leave the process group, which avoids a warning in the log, and say goodbye to the other ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()
    peer_monitor.goodbye()  # last, so that leaving cannot hang for a rank that is lost meanwhile
