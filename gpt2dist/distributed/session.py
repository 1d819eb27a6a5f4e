"""Agree on a new session of the store that the ranks of a job share.

torchrun keeps its store when it restarts the ranks, which would then find addresses of exited ranks in it
(pytorch issue 135712). torchrun's restart count does not help, because each host counts separately. So the ranks
of each start agree on a session, whose name is the prefix of all of their entries.

Rank 0 opens a session. Every other rank asks to join it under an id of its own, rank 0 answers to this id, and
the rank confirms. What an earlier start has left leads no rank into an old session, since nobody has answered to
a new id yet. Where rank 0 has answered to the id of an exited rank, no confirmation comes, and it looks again.

If the ranks arrive together, each of them makes six calls of the store, and rank 0 makes four for each of the
others, of less than 150 bytes each: O(N) calls and bytes for N ranks. They wait in the store instead of asking
repeatedly. Only a rank that has waited in vain looks again, after pauses that grow.
"""

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from gpt2dist.errors import RunError

FIRST_PAUSE_SECONDS = 0.5
"""Time after which a waiting rank looks whether an earlier start has misled it."""
LONGEST_PAUSE_SECONDS = 8.0
"""The time doubles up to this one."""
OPEN = "session"
"""Key of the session that ranks may join at present."""


class Patience:
    """The time that a rank has to wait for others, in pauses that grow.

    Args:
        seconds: Total time.
        fault: Message if it ends.
    """

    def __init__(self, seconds: float, fault: str):
        self._deadline = time.monotonic() + seconds
        self._pause = FIRST_PAUSE_SECONDS
        self._fault = fault

    def rest(self) -> timedelta:
        """Return the time that is left.

        Raises:
            RunError: None is left.
        """
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise RunError(self._fault)
        return timedelta(seconds=seconds)

    def pause(self) -> timedelta:
        """Return the next pause, twice as long as the last one."""
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return min(timedelta(seconds=pause), self.rest())


def agree(store: dist.Store, rank: int, size: int, timeout: timedelta) -> str:
    """Return the name of the session: the same on all ranks of this start, and new. Collective.

    Args:
        store: The store, which may have entries of earlier starts.
        rank: This rank.
        size: Number of ranks.
        timeout: Time for all ranks to arrive.

    Raises:
        RunError: A rank did not arrive in time.
    """
    fault = f"rank {rank} waited {timeout} for the other {size - 1}; see the log of each rank"
    patience = Patience(timeout.total_seconds(), fault)
    return _open(store, size, patience) if rank == 0 else _join(store, rank, patience)


def _open(store: dist.Store, size: int, patience: Patience) -> str:
    """Open a session, and answer the other ranks until each has confirmed."""
    session = uuid.uuid4().hex
    store.set(OPEN, session)
    answered: dict[int, str] = {}
    missing = list(range(1, size))
    while missing:
        for rank in missing:
            while not _has(store, asked := f"{session}/asked/{rank}", patience.rest()):
                pass  # `rest` raises
            if answered.get(rank) != (own := store.get(asked).decode()):
                store.set(f"answered/{own}", session)
                answered[rank] = own
        pause = patience.pause()
        missing = [rank for rank in missing if not _has(store, f"{session}/confirmed/{rank}", pause)]
    store.delete_key(OPEN)  # so that the ranks of the next start wait for theirs
    return session


def _join(store: dist.Store, rank: int, patience: Patience) -> str:
    """Join the session that rank 0 opens."""
    own = uuid.uuid4().hex
    asked = ""
    while True:
        if not _has(store, OPEN, patience.rest()):
            continue  # `rest` raises
        if (session := store.get(OPEN).decode()) != asked:
            store.set(f"{session}/asked/{rank}", own)
            asked = session
        if _has(store, f"answered/{own}", patience.pause()):
            session = store.get(f"answered/{own}").decode()
            store.set(f"{session}/confirmed/{rank}", own)
            return session


def _has(store: dist.Store, key: str, timeout: timedelta) -> bool:
    """Wait until an entry exists, and return whether it does."""
    try:
        store.wait([key], timeout)
    except dist.DistStoreError:
        return False
    return True
