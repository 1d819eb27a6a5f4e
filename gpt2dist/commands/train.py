"""`gpt2dist train`: builds the parts of a run and lets the trainer go."""

import argparse
import os
from datetime import timedelta
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("config", type=Path, help="the run's YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="keys to change, values in YAML"
    )
    parser.epilog = """\
examples:
  gpt2dist train configs/gpt2-124m.yaml                                        one process
  torchrun --standalone --nproc-per-node 8 -m gpt2dist train configs/gpt2-124m.yaml
  deepspeed --num_gpus 8 --module gpt2dist train configs/gpt2-124m.yaml
  … batch.micro_batch_size=4 optimizer.lr=3e-4                                 change keys

Started again, a run goes on from its newest whole checkpoint. `gpt2dist validate` shows the plan first."""


def run(args: argparse.Namespace) -> None:
    """Trains."""
    from gpt2dist.distributed import launched_world_size
    from gpt2dist.monitoring.logs import quiet_libraries
    from gpt2dist.preflight import resolve

    # Before anything heavy is imported: a mistake in the configuration is told at once.
    config, plan = resolve(args.config, args.overrides, launched_world_size())
    quiet_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    from gpt2dist import distributed
    from gpt2dist.training.failure import told_by_every_rank
    from gpt2dist.training.setup import train

    # Longer than the watchdog's patience, so that its stacks are written before the collectives fail.
    world = distributed.join(timedelta(seconds=config.run.timeout_seconds + 30))
    with told_by_every_rank(config.output_dir, world):
        train(config, plan, world)
    distributed.leave()
