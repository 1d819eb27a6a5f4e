"""Where the work is done: in this process, in others, or on the workers of a Dask scheduler."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from typing import Any

from gpt2dist.errors import RunError, UserError
from gpt2dist.preprocessing.tasks import PreprocessingJob

POLL_SECONDS = 0.2
"""How often the driver looks at what its workers have done."""


def run_all(
    executor: Executor,
    job: PreprocessingJob,
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    on_poll: Callable[[], None] = lambda: None,
) -> Generator[Any, None, None]:
    """Calls a function with each of some arguments, in any order.

    Args:
        executor: Where.
        job: Its `stop` file is made when this ends early.
        function: Of a module's top level.
        calls: The arguments of each call; they can be pickled.
        on_poll: Called now and then meanwhile.

    Yields:
        The results, as they come.

    Raises:
        RunError: A worker died.
    """
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
def open_executor(
    job: PreprocessingJob, calls: int, prepare: Callable[[PreprocessingJob], object] = id
) -> Iterator[Executor]:
    """Where the work of a job is done: its processes, its Dask scheduler, or a thread of this process.

    Args:
        job: Says which.
        calls: How much there is to do at most: no more processes are started.
        prepare: Called first in each process, of a module's top level; whether it fails does not matter.
    """
    if job.scheduler:
        with _dask(job.scheduler) as executor:
            yield executor
    elif job.workers == 1 or calls <= 1:
        with ThreadPoolExecutor(1) as executor:
            yield executor
    else:
        # Not forked from here: libraries with threads do not survive that. From a server that has only imported.
        context = multiprocessing.get_context("forkserver")
        workers = min(job.workers, calls)
        with ProcessPoolExecutor(workers, context, _start_worker, (prepare, job)) as executor:
            for _ in range(workers):
                executor.submit(_begin)  # starts them all now, while the driver does other things
            yield executor


PRELOAD = ["gpt2dist.preprocessing.worker", "gpt2dist.corpus.readers.jsonl", "awkward", "gigatoken"]
"""What most workers need, and what starts no thread."""


def start_early(job: PreprocessingJob) -> None:
    """Has the server that workers are forked from import what they need, while the driver does other things."""
    if not job.scheduler and job.workers > 1:
        forkserver.set_forkserver_preload(PRELOAD)
        forkserver.ensure_running()


def _begin() -> None:
    """Nothing."""


def _start_worker(prepare: Callable[[PreprocessingJob], object], job: PreprocessingJob) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver decides
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(Exception):  # it will be done again where it is needed, and told of
        prepare(job)


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
