"""What the trainer costs over the bare loop: tokens per second of both, in one run, and their ratio.

    python tools/bench/train.py [--n-layer 4 --n-embd 192 --steps 30 --stage 0]

The peer is the shortest correct PyTorch loop on transformers' GPT-2: the same model, batches, AdamW, clipping
and accumulation, without DeepSpeed, loader, metrics or checkpoints. Rounds alternate, so that a machine that is
busy with something else is busy with both.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel

from gpt2dist import distributed
from gpt2dist.config import Config
from gpt2dist.data.batch_sizes import BatchSizes
from gpt2dist.data.loader import Loader, MicroBatcher, MixtureBatcher
from gpt2dist.data.mixture import Mixture
from gpt2dist.data.stream import TokenStream
from gpt2dist.data.windows import Windows
from gpt2dist.model.gpt2 import LanguageModel, huggingface_config
from gpt2dist.model.shape import Shape
from gpt2dist.training.deepspeed_config import deepspeed_config
from gpt2dist.training.engine import Engine
from gpt2dist.training.optimizer import build_optimizer

GLOBAL_BATCH, MICRO_BATCH, VOCAB = 8, 2, 2048


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--n-embd", type=int, default=192)
    parser.add_argument("--length", type=int, default=256, help="tokens per window")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stage", type=int, default=0, help="ZeRO stage")
    args = parser.parse_args()
    world = distributed.join()
    with tempfile.TemporaryDirectory() as home:
        shape = Shape(args.n_layer, 4, args.n_embd, args.length, VOCAB)
        ours, bare = trainer_steps(shape, args.stage, world, Path(home)), bare_steps(shape, world.device)
        ours(2), bare(2)  # warm up
        ratios = []
        for number in range(args.rounds):
            amount = GLOBAL_BATCH * args.length * args.steps
            rates = [amount / timed(steps, args.steps) for steps in (ours, bare)]
            ratios.append(rates[0] / rates[1])
            print(f"round {number + 1}: gpt2dist {rates[0]:,.0f}, bare loop {rates[1]:,.0f} tokens per second")
    print(
        f"gpt2dist / bare loop = {statistics.median(ratios):.3f} "
        f"(median of {args.rounds}; {min(ratios):.3f} to {max(ratios):.3f}), "
        f"stage {args.stage}, {world.device.type}"
    )
    distributed.leave()


def timed(steps, count: int) -> float:
    """Seconds that `count` steps take, the device's queue included."""
    began = time.monotonic()
    steps(count)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - began


def trainer_steps(shape: Shape, stage: int, world: distributed.World, home: Path):
    """Steps of the engine, with windows from the loader."""
    config = Config.model_validate(
        {
            "zero": {"stage": stage},
            "batch": {"global_batch_size": GLOBAL_BATCH, "micro_batch_size": MICRO_BATCH},
        }
    )
    settings = deepspeed_config(config, GLOBAL_BATCH // MICRO_BATCH)
    engine = Engine(LanguageModel(shape, 0), config, settings, world)
    tokens = np.random.default_rng(0).integers(0, VOCAB, 1_000_000).astype(np.uint16)
    tokens.tofile(home / "tokens")
    stream = TokenStream([np.asarray(np.memmap(home / "tokens", np.uint16, "r"))])
    windows = Windows(len(stream), shape.context_length, shape.context_length // 2)
    batcher = MixtureBatcher([MicroBatcher(stream, windows, "all")])
    loader = Loader(
        Mixture([len(windows)], [1], 0), batcher, engine.stage, BatchSizes(GLOBAL_BATCH), MICRO_BATCH, 0, 1
    )

    def steps(count: int) -> None:
        for _ in range(count):
            engine.train_step(next(loader), 1e-4)

    return steps


def bare_steps(shape: Shape, device: torch.device):
    """Steps of the shortest loop, on batches that are on the device already."""
    model = GPT2LMHeadModel._from_config(huggingface_config(shape, 0), attn_implementation="sdpa").to(device)
    optimizer = build_optimizer(model, Config().optimizer)
    batch = torch.randint(0, VOCAB, (MICRO_BATCH, shape.context_length + 1), device=device)

    def steps(count: int) -> None:
        for _ in range(count):
            for _ in range(GLOBAL_BATCH // MICRO_BATCH):
                logits = model(batch[:, :-1], use_cache=False).logits
                loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
                (loss * MICRO_BATCH / GLOBAL_BATCH).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return steps


if __name__ == "__main__":
    main()
