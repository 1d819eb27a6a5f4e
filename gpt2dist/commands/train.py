"""`gpt2dist train`: check a run, join the other ranks, and train."""

import argparse
import gc
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2dist.cli import add_run_file
from gpt2dist.distributed import launch_environment

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

A run that is started again resumes from its newest complete checkpoint. Ctrl-C, SIGTERM or SIGUSR1 stops it
within a micro-batch: it saves everything, and writes stopped.json into the run directory. The exit code is then
130 after Ctrl-C, else 0. A second signal ends it immediately. `gpt2dist validate` shows the plan."""


def run(args: argparse.Namespace) -> None:
    """Train the model."""
    config, plan, world = start(args.config, args.overrides)
    from gpt2dist.api.train import train_as_planned
    from gpt2dist.distributed.world import leave

    stopped = train_as_planned(config, plan, world, str(args.config))
    leave()
    # Without other ranks, the caller is probably a shell, which must not go on to the next command after Ctrl-C.
    # A launcher takes any code except 0 for the failure of a rank.
    if stopped == signal.SIGINT.name and world.size == 1:
        raise KeyboardInterrupt


def start(path: Path, overrides: list[str]) -> "tuple[Config, Plan, World]":
    """Check a run and join the other ranks."""
    if launch_environment.world_size() > 1:
        # Before anything else: the launcher may exit while this rank imports modules or waits for another rank.
        from gpt2dist.training.watchdog import exit_with_parent

        exit_with_parent()
    from gpt2dist.api.train import HostPlan
    from gpt2dist.config import read
    from gpt2dist.dataset.manifest import without_sha256
    from gpt2dist.monitoring.progress import info

    # Before torch is imported, so that a single process reports configuration errors immediately.
    config, wrong = read(path, overrides)
    host_plan = HostPlan(config, str(path), wrong)
    from gpt2dist.monitoring.logs import quiet_libraries

    quiet_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import_libraries()
    from gpt2dist.api.train import timeout_of
    from gpt2dist.distributed.world import join
    from gpt2dist.model.numerics import prepare_deterministic

    prepare_deterministic(config.run.deterministic)
    world = join(timeout_of(config))
    config, plan = host_plan.share(world)
    note = without_sha256(plan.manifests)
    if note and world.is_main:
        info(note, "train")
    return config, plan, world


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
