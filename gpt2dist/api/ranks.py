"""Join the other ranks for the duration of one call."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from gpt2dist.errors import PeerLostError, RunError
from gpt2dist.run.end_markers import PEER_LOST

if TYPE_CHECKING:  # importing torch would slow down --help
    from gpt2dist.distributed.world import World


@contextlib.contextmanager
def joined_ranks(timeout: timedelta | None = None) -> "Iterator[World]":
    """Join the other ranks of the launcher, and leave them at the end. Without a launcher, there is one rank.

    An existing process group is used and kept.

    Args:
        timeout: Timeout of a collective; None for the default.

    Raises:
        RunError: Another rank is gone.
    """
    from torch.distributed import is_initialized

    from gpt2dist.distributed.world import TIMEOUT, join, leave, lost_peers

    joined_before = is_initialized()
    world = join(timeout or TIMEOUT)
    try:
        with lost_peers():
            yield world
    except PeerLostError as error:
        raise RunError(PEER_LOST) from error
    finally:
        if not joined_before:
            leave()
