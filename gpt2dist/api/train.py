"""Train a run: `gpt2dist.train`, and the code that it shares with the verb."""

import contextlib
import gc
import importlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from gpt2dist.api.ranks import joined_ranks
from gpt2dist.api.run import Run
from gpt2dist.distributed import launch_environment
from gpt2dist.distributed.hosts import HostWork
from gpt2dist.errors import UserError
from gpt2dist.terminal import say

if TYPE_CHECKING:  # importing torch would slow down --help
    from gpt2dist.config import Config, Problem
    from gpt2dist.distributed.world import World
    from gpt2dist.plan import Plan

BEYOND_WATCHDOG_SECONDS = 30
"""Seconds by which collectives outlast the watchdog, so that it writes the stacks before they fail."""


def train(config: "Config", *, quiet: bool = False) -> Run:
    """Train a run in this process, as `gpt2dist train` does, and return it.

    A run that has checkpoints resumes from the newest one; a finished run returns immediately. In a notebook or a
    plain script, the process is the only rank. In a script that torchrun or `gpt2dist launch` started, every rank
    calls `train` with the same configuration. It can be called again, with the same or another run.

    Ctrl-C, SIGTERM and SIGUSR1 stop the run within a micro-batch with everything saved, and `run.status.state` is
    then "stopped". After SIGTERM and SIGUSR1 `train` returns; after Ctrl-C it raises KeyboardInterrupt. A second
    signal ends the process immediately. The previous signal handlers, the level of the root logger, the
    environment variables, and torch's precision of fp32 products and deterministic algorithms are restored at the
    end. Log messages go to the terminal (rank 0) and to the log of the rank in the run directory.

    Args:
        config: The configuration.
        quiet: Whether to show only warnings and errors.

    Returns:
        The run in `config.output_dir`.

    Raises:
        UserError: The configuration has mistakes, all of which are in the message, or the device or the disk has
            too little space. Nothing has been trained.
        RunError: The run failed for a reason that the message explains. On several ranks, other exceptions end
            the process, since the other ranks would wait for it.
        KeyboardInterrupt: Ctrl-C stopped the run, and everything is saved.

    Example:
        >>> run = gpt2dist.train(gpt2dist.Config.read("configs/quickstart.yaml"))
        >>> run.status.state
        'finished'
    """
    from gpt2dist.monitoring.progress import quietly

    if threading.current_thread() is not threading.main_thread():
        raise UserError("train must be called from the main thread, which receives the signals that stop a run")
    if not config.run.name and config.run.output_dir is None:
        raise UserError("run.name: is required here and missing; set it, or run.output_dir")
    launch_environment.check()
    where = config.run.name or str(config.output_dir)
    host_plan = HostPlan(config, where)
    with quietly(quiet), _process_restored():
        # The import takes seconds, which must not count as time that other ranks wait for this one to join.
        importlib.import_module("gpt2dist.training.setup")
        from gpt2dist.model.numerics import prepare_deterministic

        prepare_deterministic(config.run.deterministic)
        with joined_ranks(timeout_of(config)) as world:
            config, plan = host_plan.share(world)
            stopped = train_as_planned(config, plan, world, where)
        gc.collect()  # engines contain reference cycles
    if stopped == signal.SIGINT.name:
        raise KeyboardInterrupt
    return Run(config.output_dir)


class HostPlan:
    """The check and the plan of a run, made by one rank of each host before the ranks join.

    So neither the datasets nor a model of `init_from` are opened by every rank.

    Args:
        config: The configuration.
        where: Name of the configuration, for messages.
        wrong: Problems found while reading the configuration. Every rank finds the same.

    Raises:
        UserError: This process is the only rank, or `wrong` has problems, and the configuration has mistakes.
    """

    def __init__(self, config: "Config", where: str, wrong: "Sequence[Problem]" = ()):
        from gpt2dist.preflight import plan_run

        def check() -> "tuple[Config, Plan]":
            return plan_run(config, launch_environment.world_size(), where, wrong)

        if wrong:
            check()
        self._work = HostWork.before_join(check)

    def share(self, world: "World") -> "tuple[Config, Plan]":
        """Return the completed configuration and the plan of rank 0. Collective.

        Raises:
            UserError: The configuration has mistakes, or a host lacks files or has others than rank 0's. Every
                rank raises it; the message names the host.
        """
        return self._work.share(world, lambda found: _versions(found[1]))


def _versions(plan: "Plan") -> dict[str, str]:
    """Return what identifies each dataset: its directory → the hashes of its tokens and of its manifest."""
    return {str(each.directory): f"{each.fingerprint} {each.sha256}" for each in plan.manifests}


def train_as_planned(config: "Config", plan: "Plan", world: "World", where: str) -> str:
    """Check that a run has enough space, then train it, with logs and a report of failures. Collective.

    Args:
        config: The run's configuration.
        plan: Its plan for this world size.
        world: This rank.
        where: Name of the configuration, for messages.

    Returns:
        The name of the signal that stopped the run; empty if it reached its last step, or if
        `evaluation.patience` ended it.
    """
    from gpt2dist.monitoring.logs import rank_logging
    from gpt2dist.training.failure import report_rank_failure
    from gpt2dist.training.setup import train

    require_room(config, plan, world, where)
    with rank_logging(config.output_dir, world.rank), report_rank_failure(config.output_dir, world):
        return train(config, plan, world)


def timeout_of(config: "Config") -> timedelta:
    """Return the timeout of the run's collectives, which is longer than that of its watchdog."""
    return timedelta(seconds=config.run.timeout_seconds + BEYOND_WATCHDOG_SECONDS)


def require_room(config: "Config", plan: "Plan", world: "World", where: str) -> None:
    """Check that the devices and the disk have enough space for a run. Collective; rank 0 checks.

    The size of the activations is an estimate. If everything else fits, a lack of memory is only a warning.

    Args:
        config: The run's configuration.
        plan: Its plan.
        world: This rank.
        where: Name of the configuration, for messages.

    Raises:
        UserError: Memory or disk space is too small, or the run's directory is not writable. The message lists
            every failure with a fix.
    """
    from gpt2dist.preflight.resources import check_memory, require_resources, states_fit

    def check_room() -> None:
        device_bytes = world.device_bytes
        certain = device_bytes is not None and not states_fit(config, plan, device_bytes)
        for doubt in check_memory(config, plan, device_bytes) if device_bytes and not certain else ():
            say(f"{doubt.key}: {doubt.message}")
        require_resources(where, config, plan, device_bytes if certain else None)

    world.on_main(check_room)


@contextlib.contextmanager
def _process_restored() -> Iterator[None]:
    """Restore on exit what DeepSpeed changes in the process.

    DeepSpeed sets RANK and other environment variables. Stage 3 replaces torch's function `linear`, so that other
    models no longer work.
    """
    import torch

    before, linear = dict(os.environ), torch.nn.functional.linear
    try:
        yield
    finally:
        torch.nn.functional.linear = linear
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
