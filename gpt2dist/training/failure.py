"""Report a rank's failure to its log, the terminal, the launcher and the run directory."""

import contextlib
import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from gpt2dist.distributed import peer_monitor
from gpt2dist.distributed.world import World, leave, lost_peers
from gpt2dist.errors import PeerLostError, RunError, UserError
from gpt2dist.run import end_markers
from gpt2dist.run.directory import RunDirectory
from gpt2dist.terminal import say
from gpt2dist.training.watchdog import HungError


@contextlib.contextmanager
def report_rank_failure(run: Path, world: World) -> Iterator[None]:
    """Report a failure of the work inside, then raise it again or end the process.

    With other ranks, any error except UserError, RunError and KeyboardInterrupt ends the process immediately: a
    normal exit would block in collectives that the other ranks no longer join. The other ranks are told.
    """
    try:
        with peer_monitor.reporting(partial(_report_from_thread, run, world)), lost_peers():
            yield
    except BaseException as error:
        get_error_handler().record_exception(error)  # for the launcher, if it requested this
        logging.getLogger("failure").error("%s", type(error).__name__, exc_info=error)  # only to the log
        if world.size == 1 or isinstance(error, UserError | RunError | KeyboardInterrupt):
            leave()
            raise
        peer_monitor.tell(error)
        _print_failure(run, world, error)
        os._exit(1)


def report_hang(run: Path, world: World, error: HungError) -> None:
    """Report that the main thread hangs and the process is about to end. Called from another thread."""
    _mark_and_report(run, world, error)
    peer_monitor.goodbye()  # the other ranks wait for this one, so each reports the hang itself


def _mark_and_report(run: Path, world: World, error: HungError | PeerLostError) -> None:
    end_markers.write_failed(run, world.rank, error)
    _report_from_thread(run, world, error)


def _report_from_thread(run: Path, world: World, error: HungError | PeerLostError) -> None:
    """Report an error in place of the main thread, which is stuck."""
    get_error_handler().record_exception(error)
    logging.getLogger("failure").error("%s: %s", type(error).__name__, error)
    _print_failure(run, world, error)


def _print_failure(run: Path, world: World, error: BaseException) -> None:
    reason = next(iter(str(error).splitlines()), "")
    lines = [f"rank {world.rank}: {type(error).__name__}: {reason}"]
    if isinstance(error, PeerLostError):
        lines.append(f"  {end_markers.PEER_LOST}")
    lines.append(f"  traceback: {RunDirectory(run).rank_log(world.rank)}")
    say("\n".join(lines))


@contextlib.contextmanager
def failure_marker(run: Path, world: World) -> Iterator[None]:
    """Delete an old failed.json, and write a new one if the work inside fails. Collective.

    Enter it only with the run's lock held: a job that could not take the lock must not mark the run as failed.
    """
    world.on_main(lambda: end_markers.clear_failed(run))
    try:
        with peer_monitor.reporting(partial(_mark_and_report, run, world)), lost_peers():
            yield
    except BaseException as error:
        end_markers.write_failed(run, world.rank, error)
        raise
