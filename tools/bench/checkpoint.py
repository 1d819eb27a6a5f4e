"""Measure the cost of saving: its rate relative to the disk's, and how long training waits.

    python tools/bench/checkpoint.py [--preset gpt2-124m --directory DIR --rounds 5]
    torchrun --standalone --nproc-per-node 2 tools/bench/checkpoint.py --stage 2

Three saves of the same bytes are timed: a plain write (each rank writes its part of the bytes from memory and
calls fsync), a synchronous checkpoint, and an asynchronous one, written in the background. Every second round has
the opposite order, because the speed of a disk depends on what was written before. The extra memory is the
process's peak beyond what it needed before the first save.
"""

import argparse
import itertools
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.checkpoint.store import CheckpointStore
from gpt2dist.config import Config
from gpt2dist.distributed.world import World, join, leave
from gpt2dist.memory import peak_resident_bytes
from gpt2dist.model.gpt2 import LanguageModel
from gpt2dist.model.huggingface import write_huggingface_config
from gpt2dist.model.shape import PRESET_CONTEXT_LENGTH, PRESETS, Shape
from gpt2dist.monitoring.logs import quiet_libraries
from gpt2dist.training.deepspeed_config import deepspeed_config
from gpt2dist.training.engine import Engine

VOCAB = 50257


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="gpt2-124m")
    parser.add_argument("--stage", type=int, default=1, help="ZeRO stage")
    parser.add_argument("--directory", type=Path, default=None, help="disk to measure (default: a temporary one)")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    quiet_libraries()
    world = join()
    home = Path(world.from_main(tempfile.mkdtemp(dir=args.directory) if world.is_main else ""))
    shape = Shape(*PRESETS[args.preset], PRESET_CONTEXT_LENGTH, VOCAB)
    config = Config.model_validate({"zero": {"stage": args.stage}, "batch": {"global_batch_size": world.size}})
    engine = Engine(LanguageModel(shape, 0), config, deepspeed_config(config, 1, shape.padded_parameters), world)
    before = peak_resident_bytes()
    store = CheckpointStore(
        home / "checkpoints", world, 1, None, VOCAB, lambda path: write_huggingface_config(path, shape, 0, 0.0)
    )
    size = 12 * shape.parameters
    store.save(engine.state, state(0))  # the first save allocates the snapshot in host memory
    host = store._snapshot._host
    content = [host.get(name, pinned=False).view(-1).numpy().view("u1").data for name in host.shapes]
    steps, results = itertools.count(1), []
    phases = {
        "plain": lambda: plain_write(home, world.rank, next(steps), content),
        "waited": lambda: store.save(engine.state, state(next(steps))),
        "held": lambda: store.start(engine.state, state(next(steps))),
    }
    for number in range(args.rounds):
        seconds = {}
        for name in list(phases) if number % 2 == 0 else reversed(phases):
            seconds[name] = timed(world, phases[name])
            store.finish()
        plain, waited, held = (seconds[name] for name in phases)
        results.append((plain / waited, held / waited))
        if world.is_main:
            print(
                f"round {number + 1}: {size / 1e9:.2f} GB, plain {size / plain / 1e6:,.0f} MB/s, "
                f"checkpoint {size / waited / 1e6:,.0f} MB/s, held {held:.3f} s of {waited:.3f} s"
            )
    extra = world.gather(peak_resident_bytes() - before)
    if world.is_main:
        rate, held = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"checkpoint / plain write = {rate:.2f}; held, asynchronous / synchronous = {held:.2f}")
        print(
            f"extra memory at most {max(extra) / 2**20:,.0f} MiB a rank; its part of the state "
            f"{size / world.size / 2**20:,.0f} MiB ({world.size} ranks, stage {args.stage}, {world.device.type})"
        )
        shutil.rmtree(home)
    leave()


def state(step: int) -> TrainerState:
    """Return a placeholder state at a step."""
    return TrainerState(step, 0, 0, 0, True, 0.0, {}, {}, 1.0, [], "", {}, 1, 0, "fp32")


def plain_write(home: Path, rank: int, number: int, content: list[memoryview]) -> None:
    """Write bytes from memory and fsync them; then delete the previous file, as a new checkpoint does."""
    before = list(home.glob(f"plain-{rank}-*"))
    with (home / f"plain-{rank}-{number}").open("wb", buffering=0) as file:
        for part in content:
            while part:
                part = part[file.write(part) :]
        os.fsync(file.fileno())
    for path in before:
        path.unlink()


def timed(world: World, work) -> float:
    """Return the seconds until the last rank is done."""
    world.all(True)
    began = time.monotonic()
    work()
    world.all(True)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
