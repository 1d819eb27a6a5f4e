"""Where the work is done: in this process, in others, or on the workers of a Dask scheduler."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any

from gpt2dist.data.preprocessing.tasks import Job
from gpt2dist.errors import RunError, UserError

POLL_SECONDS = 0.2
"""How often the driver looks at what its workers have done."""


def run_all(
    job: Job, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], on_poll: Callable[[], None]
) -> Generator[Any, None, None]:
    """Calls a function with each of some arguments, in any order, wherever the job says.

    Args:
        job: Its `workers` or `scheduler` say where; its `stop` file is made when this ends early.
        function: Of a module's top level.
        calls: The arguments of each call; they can be pickled.
        on_poll: Called now and then meanwhile.

    Yields:
        The results, as they come.

    Raises:
        RunError: A worker died.
    """
    with _executor(job, len(calls)) as executor:
        pending = {executor.submit(function, *arguments) for arguments in calls}
        try:
            while pending:
                done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                on_poll()
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise RunError(
                "a worker process died, most likely killed for memory. What is done is kept: run the same "
                "command again to go on, with fewer --workers if memory is short"
            ) from None
        finally:
            if pending:
                with suppress(OSError):  # a full disk is what some of this ends for
                    job.stop.touch()
                for future in pending:
                    future.cancel()
                wait(pending)
                job.stop.unlink(missing_ok=True)


@contextmanager
def _executor(job: Job, calls: int) -> Iterator[Executor]:
    if job.scheduler:
        with _dask(job.scheduler) as executor:
            yield executor
    elif job.workers == 1 or calls <= 1:
        with ThreadPoolExecutor(1) as executor:
            yield executor
    else:
        # Started anew, not forked: libraries with threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(job.workers, calls), context, _start_worker) as executor:
            yield executor


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver decides
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Ends this worker when the driver was killed, whose successor may be at the same task already."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise UserError("--scheduler: needs Dask; install it with pip install 'gpt2dist[dask]'") from None
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(
            f"--scheduler {address}: no Dask scheduler answers there ({type(error).__name__}: {error}); start "
            "one with `dask scheduler` and its workers with `dask worker ADDRESS --nthreads 1`"
        ) from error
    with client:
        try:
            yield client.get_executor(pure=False, retries=2)
        except KilledWorker as error:
            raise RunError(
                f"the Dask workers of {address} die at the same task again and again, most likely for memory "
                f"({error}). What is done is kept: run the same command again to go on"
            ) from error
