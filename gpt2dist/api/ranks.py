"""Join the other ranks for the duration of one call."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from gpt2dist.distributed import peer_monitor
from gpt2dist.errors import PeerLostError, RunError, UserError
from gpt2dist.run.end_markers import PEER_LOST
from gpt2dist.terminal import say

if TYPE_CHECKING:  # importing torch would slow down --help
    from gpt2dist.distributed.world import World


@contextlib.contextmanager
def joined_ranks(timeout: timedelta | None = None) -> "Iterator[World]":
    """Join the other ranks of the launcher, and leave them at the end. Without a launcher, there is one rank.

    An existing process group is used and kept. Otherwise, if another rank is lost while this one is stuck in a
    collective, the process ends with exit code 1.

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
        with peer_monitor.reporting(partial(_report_loss, world.rank)), lost_peers():
            yield world
    except PeerLostError as error:
        raise RunError(PEER_LOST) from error
    except (UserError, RunError):  # all ranks have the same
        raise
    except Exception as error:
        peer_monitor.tell(error)
        raise
    finally:
        if not joined_before:
            leave()


def _report_loss(rank: int, error: PeerLostError) -> None:
    """Report a loss in place of the main thread, which is stuck."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)  # for the launcher, if it requested this
    say(f"rank {rank}: {type(error).__name__}: {error}\n  {PEER_LOST}")
