"""`gpt2dist train`: check a run, join the other ranks, and train."""

import argparse
import gc
import importlib
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2dist.cli import add_run_file
from gpt2dist.distributed import launch_environment
from gpt2dist.terminal import say

if TYPE_CHECKING:  # importing torch would slow down --help
    from gpt2dist.config import Config
    from gpt2dist.distributed.world import World
    from gpt2dist.plan import Plan


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_run_file(parser)
    parser.epilog = """\
examples:
  gpt2dist train configs/gpt2-124m.yaml                                        one process
  gpt2dist launch train configs/gpt2-124m.yaml                                 all GPUs of this host
  torchrun --standalone --nproc-per-node 8 -m gpt2dist train configs/gpt2-124m.yaml
  deepspeed --num_gpus 8 --module gpt2dist train configs/gpt2-124m.yaml
  … batch.micro_batch_size=4 optimizer.lr=3e-4                                 override keys

A run that is started again resumes from its newest complete checkpoint. SIGTERM or SIGUSR1 stops it within a
micro-batch: it saves everything, writes stopped.json into the run directory, and exits with code 0.
`gpt2dist validate` shows the plan."""


def run(args: argparse.Namespace) -> None:
    """Train the model."""
    config, plan, world = start(args.config, args.overrides)
    require_room(args.config, config, plan, world)
    from gpt2dist.distributed.world import leave
    from gpt2dist.monitoring.logs import rank_logging
    from gpt2dist.training.failure import report_rank_failure
    from gpt2dist.training.setup import train

    with rank_logging(config.output_dir, world.rank), report_rank_failure(config.output_dir, world):
        train(config, plan, world)
    leave()


def start(path: Path, overrides: list[str]) -> "tuple[Config, Plan, World]":
    """Check a run and join the other ranks."""
    if launch_environment.world_size() > 1:
        # Before anything else: the launcher may exit while this rank imports modules or waits for another rank.
        from gpt2dist.training.watchdog import exit_with_parent

        exit_with_parent()
    from gpt2dist.dataset.manifest import without_sha256
    from gpt2dist.monitoring.progress import info
    from gpt2dist.preflight import resolve

    # Before torch is imported, so that configuration errors are reported immediately.
    config, plan = resolve(path, overrides, launch_environment.world_size())
    note = without_sha256(plan.manifests)
    if note and launch_environment.rank() == 0:
        info(note, "train")
    from gpt2dist.monitoring.logs import quiet_libraries

    quiet_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import_libraries()
    from gpt2dist.distributed.world import join

    # Longer than the watchdog's timeout, so that it writes the stacks before the collectives fail.
    return config, plan, join(timedelta(seconds=config.run.timeout_seconds + 30))


def import_libraries() -> None:
    """Import torch and DeepSpeed, and exclude their objects from garbage collection permanently.

    They have a million objects, none of them garbage. Scanning them takes a fifth of the startup time, as much at
    exit, and some time during training.
    """
    if "gpt2dist.training.setup" in sys.modules:
        return
    gc.disable()
    try:
        importlib.import_module("gpt2dist.training.setup")
    finally:
        gc.freeze()
        gc.enable()


def require_room(path: Path, config: "Config", plan: "Plan", world: "World") -> None:
    """Check that the devices and the disk have enough space for a run. Collective; rank 0 checks.

    The size of the activations is an estimate. If all but the activations fits, a lack of memory is a warning.

    Raises:
        UserError: Memory or disk space is too small, or the run's directory is not writable. The message lists
            every failure with a fix.
    """
    from gpt2dist.preflight.resources import check_memory, require_resources, states_fit

    def look() -> None:
        device_bytes = world.device_bytes
        certain = device_bytes is not None and not states_fit(config, plan, device_bytes)
        for doubt in check_memory(config, plan, device_bytes) if device_bytes and not certain else ():
            say(f"{doubt.key}: {doubt.message}")
        require_resources(str(path), config, plan, device_bytes if certain else None)

    world.on_main(look)
