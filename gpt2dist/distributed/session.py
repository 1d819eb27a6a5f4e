"""Agree on a new session of the store that the ranks of a job share.

torchrun keeps its store when it restarts the ranks, which would then find addresses of exited ranks in it
(pytorch issue 135712). torchrun's restart count does not help, because each host counts separately. So the ranks
of each start agree on a session, whose name is the prefix of all of their entries.

Rank 0 opens a session. Every other rank asks to join it under an id of its own, rank 0 answers to this id, and
the rank confirms. Entries of an earlier start cannot lead a rank into an old session, because they do not answer
its new id. If rank 0 has answered the id of an exited rank, no confirmation comes, and it looks again.

Rank 0 makes three calls of the store for each of the others. Another rank makes five, and one for each look at an
entry of its own, after pauses that double: O(log T) looks in T seconds. A call has about 100 bytes, so N ranks
together make O(N) calls with O(N) bytes.
"""

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from gpt2dist.errors import RunError

FIRST_PAUSE_SECONDS = 0.03
"""First pause between two looks at an entry that may never come: c10d logs each wait that ends in vain."""
LONGEST_PAUSE_SECONDS = 5.0
"""The pauses double up to this one."""
REPLACED_SECONDS = 0.5
"""Pause from which on a rank looks whether those that it waits for have been replaced."""
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

    def pause(self) -> float:
        """Sleep twice as long as the last time, and return for how many seconds.

        Raises:
            RunError: No time is left.
        """
        seconds = min(self._pause, self.rest().total_seconds())
        time.sleep(seconds)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return seconds


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
    for rank in range(1, size):
        _answer(store, session, rank, answered, patience)
    confirmed = {rank: f"{session}/confirmed/{rank}" for rank in answered}
    while not store.check(list(confirmed.values())):
        if patience.pause() >= REPLACED_SECONDS:
            confirmed = {rank: key for rank, key in confirmed.items() if not store.check([key])}
            for rank in confirmed:
                _answer(store, session, rank, answered, patience)
    store.delete_key(OPEN)  # so that the ranks of the next start wait for theirs
    return session


def _answer(store: dist.Store, session: str, rank: int, answered: dict[int, str], patience: Patience) -> None:
    """Wait until a rank has asked, and answer if its id is new."""
    own = _get(store, f"{session}/asked/{rank}", patience)
    if answered.get(rank) != own:
        store.set(f"answered/{own}", session)
        answered[rank] = own


def _join(store: dist.Store, rank: int, patience: Patience) -> str:
    """Join the session that rank 0 opens."""
    own, asked, pause = uuid.uuid4().hex, "", REPLACED_SECONDS
    answer = f"answered/{own}"
    while True:
        if pause >= REPLACED_SECONDS and (session := _get(store, OPEN, patience)) != asked:
            store.set(f"{session}/asked/{rank}", own)  # another one may have been left by an earlier start
            asked = session
        pause = patience.pause()
        if store.check([answer]):
            session = store.get(answer).decode()
            store.set(f"{session}/confirmed/{rank}", own)
            return session


def _get(store: dist.Store, key: str, patience: Patience) -> str:
    """Wait for an entry that will come, and return it."""
    try:
        store.wait([key], patience.rest())
    except dist.DistStoreError:
        patience.rest()  # raises
        raise
    return store.get(key).decode()
