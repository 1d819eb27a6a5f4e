"""How a rank that fails says so: to its log in full, to the terminal in a line, to its launcher, to the run."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from gpt2dist.distributed.world import World, leave, lost_peers
from gpt2dist.errors import PeerLostError, RunError, UserError
from gpt2dist.run import end_markers
from gpt2dist.run.directory import RunDirectory
from gpt2dist.training.watchdog import HungError


@contextlib.contextmanager
def report_rank_failure(run: Path, world: World) -> Iterator[None]:
    """Tells how the work inside failed, then ends the process where other ranks wait for it.

    A tidy end would be waited for by collectives that nobody answers any more.
    """
    try:
        with lost_peers():
            yield
    except BaseException as error:
        get_error_handler().record_exception(error)  # for the launcher, if it asked for it
        logging.getLogger("failure").error("%s", type(error).__name__, exc_info=error)  # to the log only
        if world.size == 1 or isinstance(error, UserError | RunError | KeyboardInterrupt):
            leave()
            raise
        _tell_terminal(run, world, error)
        os._exit(1)


def report_hang(run: Path, world: World, error: HungError) -> None:
    """Tells of a rank whose main thread hangs and that is about to be ended. Called by another thread."""
    get_error_handler().record_exception(error)
    logging.getLogger("failure").error("%s: %s", type(error).__name__, error)
    end_markers.write_failed(run, world.rank, error)
    _tell_terminal(run, world, error)


def _tell_terminal(run: Path, world: World, error: BaseException) -> None:
    reason = next(iter(str(error).splitlines()), "")
    lines = [f"rank {world.rank}: {type(error).__name__}: {reason}"]
    if isinstance(error, PeerLostError):
        lines.append(f"  {end_markers.PEER_LOST}")
    lines.append(f"  traceback: {RunDirectory(run).rank_log(world.rank)}")
    print("\n".join(lines), file=sys.stderr, flush=True)


@contextlib.contextmanager
def failure_marker(run: Path, world: World) -> Iterator[None]:
    """Leaves failed.json in the run directory if the work inside fails, and takes back an older one. Collective.

    Entered by the job that holds the lock: one that is turned away says nothing about the run.
    """
    world.on_main(lambda: end_markers.clear_failed(run))
    try:
        with lost_peers():
            yield
    except BaseException as error:
        end_markers.write_failed(run, world.rank, error)
        raise
