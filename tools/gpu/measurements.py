"""The stages of accept.py that build the engine themselves, to measure it: speed, saving, and the loss."""

import argparse
import importlib.util
import inspect
import math
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages import Stage

BENCH = Path(__file__).resolve().parents[1] / "bench"
OURS = ("plain", "chunked")


def bench(name: str) -> ModuleType:
    """Import one of the benchmarks beside this directory."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def speed_124m(stage: "Stage") -> None:
    """Measure GPT-2 124M: plain and chunked loss, with and without compile, beside its peers."""
    compiled = (False, True) if stage.gpu else (False,)
    speed(stage, "gpt2-124m", [(loss, each) for loss in OURS for each in compiled], 16, trainer=True)


def speed_355m(stage: "Stage") -> None:
    """Measure GPT-2 355M, compiled."""
    speed(stage, "gpt2-355m", [("chunked", stage.gpu)], 8)


def speed_774m(stage: "Stage") -> None:
    """Measure GPT-2 774M, compiled."""
    speed(stage, "gpt2-774m", [("chunked", stage.gpu)], 8)


def speed(
    stage: "Stage", preset: str, ours: list[tuple[str, bool]], micro_batch: int, trainer: bool = False
) -> None:
    """Measure our variants and the peers in alternating rounds, in one process, and record the ratios."""
    import torch

    from gpt2dist.distributed.world import join, leave
    from gpt2dist.model.shape import PRESETS, Shape

    train = bench("train")
    torch.backends.cuda.matmul.allow_tf32 = True
    world = join()
    shape = Shape(2, 2, 32, 32, 500) if stage.small else Shape(*PRESETS[preset], 1024, 50257)
    micro_batch = 2 if stage.small else micro_batch
    options = {
        "length": shape.context_length,
        "micro_batch": micro_batch,
        "global_batch": 4 * micro_batch,
        "steps": 2 if stage.small else 5,
    }
    options |= {
        "precision": "bf16" if stage.gpu else "fp32",
        "optimizer": "adamw",
        "nanogpt": stage.nanogpt,
        "rounds": 2 if stage.small else 4,
    }

    def arguments(loss: str, compiled: bool) -> argparse.Namespace:
        return argparse.Namespace(loss=loss, compile=compiled, **options)

    variants = []
    for loss, compiled in ours:
        home = stage.home / f"tokens-{preset}-{loss}-{compiled}"
        home.mkdir(exist_ok=True)
        name = f"{loss}{', compiled' if compiled else ''}"
        steps = train.trainer_steps(arguments(loss, compiled), shape, 1, world, home)
        variants.append(train.Variant(name, steps, []))
    compiled = stage.gpu
    if stage.nanogpt:
        steps = train.nanogpt_steps(arguments("plain", compiled), shape, world.device)
        variants.append(train.Variant("nanoGPT", steps, []))
    if trainer and importlib.util.find_spec("accelerate"):
        steps = hf_trainer_steps(arguments("plain", False), shape, stage.home / "hf-trainer", stage.gpu)
        variants.append(train.Variant("Trainer", steps, []))
    for variant in variants:
        variant.steps(3)
    for _ in range(options["rounds"]):
        for variant in variants:
            train.time_round(variant, arguments("", False), world.device)
    report_speed(stage, train, variants, len(ours), shape, world.device)
    if not stage.nanogpt:
        stage.skip("best of ours / nanoGPT", "nanoGPT's model.py was not given: --nanogpt DIRECTORY")
    if trainer and not importlib.util.find_spec("accelerate"):
        stage.skip("best of ours / Trainer", "transformers' Trainer needs accelerate")
    leave()


def report_speed(stage: "Stage", train: ModuleType, variants: list, number: int, shape, device) -> None:
    """Record MFU and memory of ours, and the ratios to the peers."""
    from gpt2dist.model.flops import flops_per_token, peak_flops

    ours, peers = variants[:number], variants[number:]
    peak = peak_flops(train.device_name(device))
    rate = {variant.name: statistics.median(variant.rates) for variant in variants}
    best = max(ours, key=lambda variant: rate[variant.name])
    for variant in ours:
        note = f"{rate[variant.name]:,.0f} tokens/s, {variant.extra_gib:.2f} GiB beside weights and optimizer"
        if peak:
            use = rate[variant.name] * flops_per_token(shape, shape.context_length) / peak
            stage.check(f"{variant.name}: MFU", use, ">=", 0.35 if "compiled" in variant.name else 0.25, note)
        else:
            stage.skip(f"{variant.name}: MFU", f"the peak of this device is unknown; {note}")
    for variant in peers:
        ratios = [a / b for a, b in zip(best.rates, variant.rates, strict=True)]
        note = f"{best.name} {rate[best.name]:,.0f}, {variant.name} {rate[variant.name]:,.0f} tokens/s"
        name, limit = f"best of ours / {variant.name}", 0.95 if variant.name == "nanoGPT" else 1.0
        if stage.small:
            stage.skip(name, f"says nothing at this size; {note}")
        else:
            stage.check(name, statistics.median(ratios), ">=", limit, note)
        if stage.gpu:
            ratio = min(each.extra_gib for each in ours) / variant.extra_gib
            stage.check(
                f"memory, least of ours / {variant.name}", ratio, "<=", 1.0, f"{variant.extra_gib:.2f} GiB"
            )


def hf_trainer_steps(args: argparse.Namespace, shape, home: Path, bf16: bool) -> Callable[[int], None]:
    """Return the steps of transformers' Trainer. It runs in a thread that waits between the rounds."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    from gpt2dist.model.huggingface import huggingface_config

    config = GPT2Config(**huggingface_config(shape, 0))
    config.vocab_size = shape.padded_vocab_size
    model = GPT2LMHeadModel._from_config(config, attn_implementation="sdpa")
    tokens = torch.randint(0, shape.vocab_size, (64, shape.context_length))
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    allowed, done = threading.Semaphore(0), threading.Semaphore(0)
    failures: list[BaseException] = []

    class Pause(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            allowed.acquire()

        def on_step_end(self, *_: object, **__: object) -> None:
            done.release()

    settings = TrainingArguments(
        str(home),
        per_device_train_batch_size=args.micro_batch,
        gradient_accumulation_steps=args.global_batch // args.micro_batch,
        max_steps=10**6,
        bf16=bf16,
        use_cpu=not bf16,
        learning_rate=1e-4,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=bf16,
    )

    def work() -> None:
        try:
            Trainer(model, settings, train_dataset=rows, callbacks=[Pause()]).train()
        except BaseException as error:
            failures.append(error)
            done.release()

    threading.Thread(target=work, daemon=True).start()

    def steps(count: int) -> None:
        for _ in range(count):
            allowed.release()
            done.acquire()
            if failures:
                raise failures[0]

    return steps


def saving(stage: "Stage") -> None:
    """Measure how long training waits for a first save, which allocates, and for a second."""
    import torch

    from gpt2dist.checkpoint.store import CheckpointStore
    from gpt2dist.config import Config
    from gpt2dist.distributed.world import join, leave
    from gpt2dist.model.gpt2 import LanguageModel
    from gpt2dist.model.huggingface import write_huggingface_config
    from gpt2dist.model.shape import PRESETS, Shape
    from gpt2dist.training.deepspeed_config import deepspeed_config
    from gpt2dist.training.engine import Engine

    placeholder = bench("checkpoint").state
    world = join()
    shape = Shape(2, 2, 32, 32, 500) if stage.small else Shape(*PRESETS["gpt2-124m"], 1024, 50257)
    config = Config.model_validate(
        {"precision": "bf16" if stage.gpu else "fp32", "zero": {"stage": 1}, "batch": {"global_batch_size": 1}}
    )
    engine = Engine(LanguageModel(shape, 0), config, deepspeed_config(config, 1, shape.padded_parameters), world)
    store = CheckpointStore(
        stage.home / "saved",
        world,
        1,
        None,
        shape.vocab_size,
        lambda path: write_huggingface_config(path, shape, 0, 0.0),
    )
    if stage.gpu:
        torch.cuda.synchronize()
    for number, (name, limit) in enumerate((("first", 5.0), ("second", 1.0))):
        began = time.monotonic()
        store.start(engine.state, placeholder(number))
        held = time.monotonic() - began
        store.finish()
        whole = time.monotonic() - began
        stage.check(
            f"{name} save: seconds that training waits", held, "<=", limit, f"{whole:.2f} s until it is written"
        )
    leave()


def loss(stage: "Stage") -> None:
    """Compare chunk sizes and accumulation in place with the chunked loss's defaults."""
    import torch

    from gpt2dist.model.loss import chunked_nll

    if "rows" not in inspect.signature(chunked_nll).parameters:
        stage.skip("time / default of chunked_nll", "this version's chunked_nll has no parameter rows")
        return
    device = "cuda" if stage.gpu else "cpu"
    dtype = torch.bfloat16 if stage.gpu else torch.float32
    tokens, width, vocab = (64, 16, 512) if stage.small else (16384, 768, 50304)
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(1, tokens, width, device=device, generator=generator).to(dtype).requires_grad_()
    weight = (0.02 * torch.randn(vocab, width, device=device, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(0, vocab - 40, (1, tokens), device=device, generator=generator)
    counted = torch.ones_like(targets, dtype=torch.bool)

    def once(rows: int | None, in_place: bool) -> tuple[float, torch.Tensor]:
        seconds = []
        for _ in range(3):
            hidden.grad = weight.grad = None
            if stage.gpu:
                torch.cuda.synchronize()
            began = time.perf_counter()
            chunked_nll(hidden, weight, targets, counted, vocab - 47, rows=rows, in_place=in_place).backward()
            if stage.gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        return min(seconds), weight.grad.float().clone()

    default, expected = once(None, False)
    for rows in (16, 64) if stage.small else (640, 1280, 2560, 5120, 16384):
        for in_place in (False, True):
            seconds, gradient = once(rows, in_place)
            found = float((gradient - expected).norm() / expected.norm())
            note = f"{1e3 * seconds:.2f} ms, {seconds / default:.2f} of the default's {1e3 * default:.2f} ms"
            name = f"{rows} rows{', in place' if in_place else ''}: relative difference of the gradient"
            stage.check(name, found, "<=", 2**-8 if stage.gpu else 1e-6, note)


def isolate(stage: "Stage") -> None:
    """Compare isolated documents without a mask with the mask: losses and speed."""
    from stages import CommandError, difference, values

    from gpt2dist.config.schema import ModelSection

    name = "varlen: relative difference of losses from the mask's"
    if "varlen" not in str(ModelSection.model_fields["attention"].annotation):
        stage.skip(name, "this version has no model.attention: varlen")
        return
    if not stage.gpu:
        stage.skip(name, "needs a GPU")
        return
    done: dict[str, Path | CommandError] = {}
    for kernel in ("sdpa", "varlen"):
        words = ["precision=bf16", "data.document_boundaries=isolate", f"model.attention={kernel}"]
        try:
            done[kernel] = stage.train(f"isolate-{kernel}", *words, model={"preset": "gpt2-124m"}, length=1024)
        except CommandError as error:
            done[kernel] = error
    found, note = difference(done["varlen"], done["sdpa"])
    stage.check(name, found, "<=", 5e-3, note)
    if math.isfinite(found):
        rates = [statistics.median(values(done[kernel], "throughput/tokens_per_second")) for kernel in done]
        stage.check(
            "tokens/s, varlen / mask", rates[1] / rates[0], ">=", 1.0, f"{rates[1]:,.0f} against {rates[0]:,.0f}"
        )
