"""Executors for preprocessing tasks: a thread of this process, a process pool or a Dask scheduler."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import forkserver, resource_tracker
from typing import Any

from gpt2dist.errors import RunError, UserError
from gpt2dist.preprocessing.job import PreprocessingJob

POLL_SECONDS = 0.2
"""Seconds between two polls of the workers by the driver."""
MOST_PENDING = 4096
"""Calls that are submitted at a time: more than there are workers, and few enough to wait for each of them."""


def run_all(
    executor: Executor,
    job: PreprocessingJob,
    function: Callable[..., Any],
    calls: Iterable[tuple[Any, ...]],
    on_poll: Callable[[], None] = lambda: None,
) -> Generator[Any, None, None]:
    """Call a function once per tuple of arguments, in any order.

    Args:
        executor: The executor to run the calls on.
        job: The job, whose `stop` file is created if the generator ends early.
        function: A top-level function of a module.
        calls: The arguments of each call, which must be picklable.
        on_poll: Called about every `POLL_SECONDS` while calls are running.

    Yields:
        The results, in order of completion.

    """
    pending: set[Future[Any]] = set()
    waiting = iter(calls)
    try:
        while True:
            room = MOST_PENDING - len(pending)
            pending.update(executor.submit(function, *arguments) for arguments in islice(waiting, room))
            if not pending:
                return
            done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            on_poll()
            for future in done:
                yield future.result()
    finally:
        if pending:
            with suppress(OSError):  # A full disk may be why the calls ended early.
                job.stop.touch()
            for future in pending:
                future.cancel()
            wait(pending)
            job.stop.unlink(missing_ok=True)


@contextmanager
def open_executor(
    job: PreprocessingJob, calls: int, prepare: Callable[[PreprocessingJob], object] = id
) -> Iterator[Executor]:
    """Open the executor of a job: a process pool, its Dask scheduler or a thread of this process.

    Args:
        job: The job, whose `scheduler` and `workers` select the executor.
        calls: The maximum number of calls; no more processes than this are started.
        prepare: A top-level function called first in each process of a pool. Its exceptions are ignored.

    Raises:
        RunError: A worker process was killed.
    """
    if job.scheduler:
        with _dask(job.scheduler) as executor:
            yield executor
    elif job.workers == 1 or calls <= 1:
        with ThreadPoolExecutor(1) as executor:
            yield executor
    else:
        # Libraries with threads do not survive a fork of this process. The fork server has only imported modules.
        context = multiprocessing.get_context("forkserver")
        workers = min(job.workers, calls)
        try:
            with ProcessPoolExecutor(workers, context, _start_worker, (prepare, job)) as executor:
                with _without_interrupts():
                    _start_all(executor, workers)
                yield executor
        except BrokenProcessPool:
            raise RunError(
                "a worker process was killed, most likely because memory ran out. Finished work is kept in "
                f"{job.build}: run the same command again to resume, with fewer --workers or a smaller "
                "--memory-per-worker if memory is short"
            ) from None


PRELOAD = ["gpt2dist.preprocessing.worker", "gpt2dist.corpus.readers.jsonl", "awkward", "gigatoken"]
"""Modules that most workers need and that start no threads when imported."""


def start_early(job: PreprocessingJob) -> None:
    """Start the fork server, which imports `PRELOAD` while the driver does other work."""
    if job.scheduler or job.workers == 1:
        return
    forkserver.set_forkserver_preload(PRELOAD)
    resource_tracker.ensure_running()  # first, since its start would unblock SIGINT
    with _without_interrupts():
        forkserver.ensure_running()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block, in which processes are started.

    A terminal sends SIGINT to all processes, but only the driver acts on it. The processes inherit the mask; the
    handler keeps this one from losing a process that is half started.
    """
    caught = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda *_: caught.append(True)) if in_main_thread else None
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
    if caught and callable(handler):
        handler(signal.SIGINT, None)


def _start_all(executor: Executor, workers: int) -> None:
    """Make a pool start all of its processes now, while the driver does other work."""
    try:
        for _ in range(workers):
            executor.submit(_begin)
    except (EOFError, ConnectionError) as error:
        raise BrokenProcessPool("the fork server was killed") from error


def _begin() -> None:
    """Do nothing; submitting this makes the pool start a process."""


def _start_worker(prepare: Callable[[PreprocessingJob], object], job: PreprocessingJob) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; only the driver acts on it.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # The workers themselves run in parallel.
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(Exception):  # The task that needs it tries again and raises the error.
        prepare(job)


def _die_with_parent() -> None:
    """Exit when the driver has been killed, since a new driver may already be running the same task."""
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
                f"the Dask workers of {address} repeatedly die at the same task, most likely out of memory "
                f"({error}). Finished work is kept: run the same command again to resume"
            ) from error
