"""Compare training with a bare PyTorch loop and nanoGPT, in tokens per second within one run, on one model.

    python tools/bench/train.py --stages 0 1 2 3
    python tools/bench/train.py --nanogpt ~/nanoGPT --precision autocast_bf16 --loss chunked

On a GPU:

    python tools/bench/train.py --preset gpt2-124m --length 1024 --micro-batch 16 --global-batch 64
        --precision bf16 --compile --nanogpt ~/nanoGPT --stages 1 2 3

gpt2dist runs its engine with windows from its loader. The bare loop is the shortest correct one for transformers'
GPT-2, without DeepSpeed, loader or metrics. For nanoGPT (https://github.com/karpathy/nanoGPT), give a checkout;
its model and training step are used without data on disk. All have the same sizes, batch, optimizer, clipping and
gradient accumulation; nanoGPT has no Muon. When gpt2dist computes in bf16, the others use autocast. They have no
ZeRO.

On a CPU, seconds are CPU time of all threads, and rounds alternate, so that other load distorts little. Each ZeRO
stage runs in a separate process, on one rank. Tokens are random. MFU is printed if the device's peak is known.
"""

import argparse
import contextlib
import importlib.util
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.config import Config
from gpt2dist.distributed.world import World, join, leave
from gpt2dist.loading.batch_ramp import BatchSizes
from gpt2dist.loading.loader import Loader, MicroBatcher, MixtureBatcher
from gpt2dist.loading.mixture import Mixture
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.loading.windows import Windows
from gpt2dist.model.flops import flops_per_token, matmul_type, peak_flops
from gpt2dist.model.gpt2 import LanguageModel
from gpt2dist.model.huggingface import huggingface_config
from gpt2dist.model.numerics import fp32_products
from gpt2dist.model.shape import PRESETS, Shape
from gpt2dist.training.deepspeed_config import deepspeed_config
from gpt2dist.training.engine import Engine
from gpt2dist.training.optimizers import build_optimizer

LR, CLIP = 1e-4, 1.0
OURS = "gpt2dist"

Steps = Callable[[int], None]
"""Function that does the given number of optimizer steps."""


@dataclass
class Variant:
    """One way to train, and its measurements."""

    name: str
    steps: Steps
    rates: list[float]  # tokens per second of each round
    extra_gib: float = 0.0  # peak device memory in the last round, beyond what all variants hold between rounds


def main() -> None:
    """Measure each ZeRO stage and print the results."""
    args = parse()
    if len(args.stages) == 1:
        measure(args, args.stages[0])
        return
    for stage in args.stages:  # DeepSpeed engines of different stages cannot share a process
        words = [*sys.argv[1:], "--stages", str(stage)]  # the last --stages takes effect
        subprocess.run([sys.executable, __file__, *words], check=True)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--preset", choices=PRESETS, help="sizes of the model, instead of --n-layer, --n-head and --n-embd"
    )
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--n-head", type=int, default=4)
    parser.add_argument("--n-embd", type=int, default=192)
    parser.add_argument(
        "--vocab-size", type=int, default=50257, help="padded to 50304 in all models; default: %(default)s"
    )
    parser.add_argument("--length", type=int, default=256, help="tokens per window")
    parser.add_argument("--micro-batch", type=int, default=2, help="windows per pass")
    parser.add_argument("--global-batch", type=int, default=8, help="windows per optimizer step")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stages", type=int, nargs="+", choices=range(4), default=[0], help="ZeRO stages")
    parser.add_argument("--precision", choices=["fp32", "bf16", "autocast_bf16"], default="fp32")
    parser.add_argument("--loss", choices=["plain", "chunked", "auto"], default="auto", help="loss of gpt2dist")
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="adamw", help="not of nanoGPT")
    parser.add_argument("--compile", action="store_true", help="use torch.compile for all models")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    return parser.parse_args()


def measure(args: argparse.Namespace, stage: int) -> None:
    """Measure gpt2dist at one ZeRO stage and the other variants, and print the results."""
    world = join()
    with fp32_products(True, world.device):  # for all variants, as in nanoGPT
        compare(args, stage, world)
    leave()


def compare(args: argparse.Namespace, stage: int, world: World) -> None:
    """Time all variants in turn, and print their rates."""
    data_type = matmul_type(args.precision, allow_tf32=True)
    sizes = PRESETS[args.preset] if args.preset else (args.n_layer, args.n_head, args.n_embd)
    shape = Shape(*sizes, args.length, args.vocab_size)
    with tempfile.TemporaryDirectory() as home:
        variants = [
            Variant(OURS, trainer_steps(args, shape, stage, world, Path(home)), []),
            Variant("bare loop", bare_steps(args, shape, world.device), []),
        ]
        if args.nanogpt:
            variants.append(Variant("nanoGPT", nanogpt_steps(args, shape, world.device), []))
        else:
            print("nanoGPT not given, skipped")
        for variant in variants:
            variant.steps(2)  # warm up
        for number in range(args.rounds):
            for variant in variants:
                time_round(variant, args, world.device)
            rates = ", ".join(f"{variant.name} {variant.rates[-1]:,.0f}" for variant in variants)
            print(f"stage {stage}, round {number + 1}: {rates} tokens per second", flush=True)
        for variant in variants:
            print(f"stage {stage}: {summary(variant, variants[0], shape, world.device, data_type)}")
    how = (
        f"{args.optimizer}, {args.precision}, loss {args.loss}, {'compiled' if args.compile else 'not compiled'}"
    )
    print(f"stage {stage}: {how}, {device_name(world.device)}")


def time_round(variant: Variant, args: argparse.Namespace, device: torch.device) -> None:
    """Time one round of a variant, until the device has finished, and add its rate."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    clock = time.perf_counter if cuda else time.process_time  # other work on the machine distorts CPU time little
    began = clock()
    variant.steps(args.steps)
    if cuda:
        torch.cuda.synchronize()
        variant.extra_gib = (torch.cuda.max_memory_allocated() - held) / 2**30
    seconds = clock() - began
    variant.rates.append(args.global_batch * args.length * args.steps / seconds)


def summary(variant: Variant, ours: Variant, shape: Shape, device: torch.device, data_type: str) -> str:
    """Return a line with a variant's rate and, unless it is ours, the ratio of our rate to it."""
    rate = statistics.median(variant.rates)
    peak = peak_flops(device_name(device), data_type)
    use = f", MFU {rate * flops_per_token(shape, shape.context_length) / peak:.1%}" if peak else ""
    use += f", {variant.extra_gib:.2f} GiB beside weights and optimizer" if variant.extra_gib else ""
    line = f"{variant.name} {rate:,.0f} tokens per second{use}"
    if variant is ours:
        return line
    ratios = [a / b for a, b in zip(ours.rates, variant.rates, strict=True)]
    return (
        f"{line}; {OURS} / {variant.name} = {statistics.median(ratios):.3f} (median of {len(ratios)}; "
        f"{min(ratios):.3f} to {max(ratios):.3f})"
    )


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the number of CPU threads in use."""
    return (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    )


def trainer_steps(args: argparse.Namespace, shape: Shape, stage: int, world: World, home: Path) -> Steps:
    """Return the steps of gpt2dist's engine, with windows from its loader."""
    config = Config.model_validate(
        {
            "precision": args.precision,
            "optimizer": {"kind": args.optimizer},
            "zero": {"stage": stage},
            "batch": {"global_batch_size": args.global_batch, "micro_batch_size": args.micro_batch},
        }
    )
    settings = deepspeed_config(config, args.global_batch // args.micro_batch, shape.padded_parameters)
    model = LanguageModel(shape, 0, loss=args.loss, compile=args.compile)
    engine = Engine(model, config, settings, world)
    tokens = np.random.default_rng(0).integers(0, shape.vocab_size, 2_000_000).astype(np.uint16)
    tokens.tofile(home / "tokens")
    stream = TokenStream([np.asarray(np.memmap(home / "tokens", np.uint16, "r"))])
    windows = Windows(len(stream), shape.context_length, shape.context_length // 2)
    batcher = MixtureBatcher([MicroBatcher(stream, windows, "all")])
    loader = Loader(
        Mixture([len(windows)], [1], 0),
        batcher,
        engine.stage,
        BatchSizes(args.global_batch),
        args.micro_batch,
        0,
        1,
    )

    def steps(count: int) -> None:
        for _ in range(count):
            engine.train_step(next(loader), LR)

    return steps


def bare_steps(args: argparse.Namespace, shape: Shape, device: torch.device) -> Steps:
    """Return the steps of the shortest loop, on a batch that is already on the device."""
    sizes = GPT2Config(**huggingface_config(shape, 0))
    sizes.vocab_size = shape.padded_vocab_size
    model = GPT2LMHeadModel._from_config(sizes, attn_implementation="sdpa").to(device)
    config = Config.model_validate({"precision": args.precision, "optimizer": {"kind": args.optimizer}})
    optimizer = build_optimizer(config, model.named_parameters())
    batch = torch.randint(0, shape.vocab_size, (args.micro_batch, shape.context_length + 1), device=device)
    forward = torch.compile(model) if args.compile else model
    accumulation = args.global_batch // args.micro_batch

    def steps(count: int) -> None:
        for _ in range(count):
            for _ in range(accumulation):
                with autocast(args.precision, device):
                    logits = forward(batch[:, :-1], use_cache=False).logits
                    loss = F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
                (loss / accumulation).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps


def nanogpt_steps(args: argparse.Namespace, shape: Shape, device: torch.device) -> Steps:
    """Return the steps of nanoGPT's train.py, without its gradient scaler, a no-op in fp32 and bf16."""
    nanogpt = load_module(args.nanogpt / "model.py")
    config = nanogpt.GPTConfig(
        block_size=shape.context_length,
        vocab_size=shape.padded_vocab_size,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
        dropout=0.0,
        bias=True,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its number of parameters
        model = nanogpt.GPT(config).to(device)
        optimizer = model.configure_optimizers(0.1, LR, (0.9, 0.95), device.type)
    inputs = torch.randint(0, shape.vocab_size, (args.micro_batch, shape.context_length), device=device)
    targets = inputs.roll(-1, 1)
    forward = torch.compile(model) if args.compile else model
    accumulation = args.global_batch // args.micro_batch

    def steps(count: int) -> None:
        for _ in range(count):
            for _ in range(accumulation):
                with autocast(args.precision, device):
                    _, loss = forward(inputs, targets)
                    loss = loss / accumulation
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps


@contextlib.contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Enable bf16 autocast unless the precision is fp32, as a loop without DeepSpeed would."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision != "fp32"):
        yield


def load_module(path: Path):
    """Import a file by its path."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    if spec is None or spec.loader is None or not path.is_file():
        sys.exit(f"--nanogpt: there is no {path}; give a checkout of nanoGPT")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
