"""The stages of accept.py. Each runs in a process of its own and records its checks one by one."""

import argparse
import gzip
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import yaml
from accept import COMPARISONS, Check

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 32}
NO_GPU = "needs a GPU"
WATCHED = ("nvcc", "gcc", "g++", "cc", "c++", "ninja")
"""Compilers and build tools that the first steps must not start."""


class CommandError(Exception):
    """A command of gpt2dist ended with an error."""


class Stage:
    """What the stages share: the sizes, the directories, and the record of checks.

    Args:
        args: The command line of accept.py.
    """

    def __init__(self, args: argparse.Namespace):
        import torch

        self.name, self.home, self.small = args.stage, args.output.resolve(), args.small
        self.nanogpt, self.given_data = args.nanogpt, args.data
        self.gpu = torch.cuda.is_available()
        self.cores = len(os.sched_getaffinity(0))

    def check(self, name: str, value: float, comparison: str, limit: float, note: str = "") -> None:
        """Record a number, and whether it passes."""
        passes = math.isfinite(value) and COMPARISONS[comparison](value, limit)
        self._record(Check(self.name, name, value, comparison, limit, "PASS" if passes else "FAIL", note))

    def skip(self, name: str, reason: str) -> None:
        """Record that a number was not measured."""
        self._record(Check(self.name, name, None, "", None, "SKIPPED", reason))

    def _record(self, check: Check) -> None:
        with (self.home / "stages" / f"{self.name}.jsonl").open("a") as file:
            file.write(json.dumps(asdict(check)) + "\n")

    def call(self, *words: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a verb of gpt2dist.

        Raises:
            CommandError: It ended with an error.
        """
        done = self.try_call(*words, env=env)
        if done.returncode:
            raise CommandError(f"gpt2dist {' '.join(map(str, words))}: {last_words(done)}")
        return done

    def try_call(self, *words: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a verb of gpt2dist, whatever comes of it."""
        environment = os.environ | {"HF_HUB_OFFLINE": "1"} | (env or {})
        path = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
        command = [sys.executable, "-m", "gpt2dist", *map(str, words)]
        done = subprocess.run(
            command, env=environment | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        print(f"$ {' '.join(command[2:])}\n{done.stdout}{done.stderr}", flush=True)
        return done

    def data(self) -> Path:
        """Return a dataset directory, which is made if none is there."""
        if self.given_data:
            return self.given_data
        data = self.home / "data"
        if not (data / "manifest.json").exists():
            self.make_data(data)
        return data

    def make_data(self, data: Path, env: dict[str, str] | None = None) -> None:
        """Make a dataset of part of Python's standard library, with a tokenizer of its own."""
        library = Path(os.__file__).parent
        names = (
            ["argparse.py", "json/decoder.py"]
            if self.small
            else ["*.py", "json/*.py", "email/*.py", "asyncio/*.py"]
        )
        corpus = self.home / "corpus.jsonl"
        texts = [path.read_text(errors="replace") for name in names for path in sorted(library.glob(name))]
        pieces = [text[begin : begin + 4000] for text in texts for begin in range(0, len(text), 4000)]
        corpus.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
        tokenizer = self.home / "tokenizer"
        size = 384 if self.small else 50257
        if not tokenizer.exists():
            self.call("tokenizer", "train", corpus, "--vocab-size", size, "--output", tokenizer, env=env)
        options = ["--val-fraction", 0.1, "--output", data]
        self.call("preprocess", corpus, "--tokenizer", tokenizer, *options, env=env)

    def configuration(self, name: str, steps: int, model: dict | None = None, length: int | None = None) -> Path:
        """Write the configuration of a run, and return its path."""
        length = length or (32 if self.small else 256)
        sizes = model or (SMALL if self.small else {"n_layer": 4, "n_head": 4, "n_embd": 256})
        data = str(self.data())
        content = {
            "run": {"output_dir": str(self.home / "runs" / name)},
            "model": sizes,
            "data": {
                "train": [{"path": data}],
                "validation": [{"name": "val", "path": data}],
                "sequence_length": length,
            },
            "batch": {"global_batch_size": 8, "micro_batch_size": 2},
            "optimizer": {"lr": 1e-3},
            "schedule": {"total_steps": steps, "warmup_steps": 2},
            "monitoring": {"log_every_steps": 1, "tensorboard": False},
        }
        path = self.home / "runs" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content))
        return path

    def train(
        self, name: str, *overrides: str, steps: int = 20, env: dict[str, str] | None = None, **sizes
    ) -> Path:
        """Train a run, unless it is there already, and return its directory."""
        run = self.home / "runs" / name
        path = self.configuration(name, steps, **sizes)
        self.call("train", path, *overrides, env=env)
        return run

    def base_run(self) -> Path:
        """Return a trained run, with two traced steps, that several stages use."""
        run = self.home / "runs" / "base"
        if (run / "trained").exists():
            return run
        sizes = {} if self.small else {"model": {"preset": "gpt2-124m"}, "length": 1024}
        overrides = ["monitoring.profile={start: 6, steps: 2}", *(["precision=bf16"] if self.gpu else [])]
        self.train("base", *overrides, steps=10, **sizes)
        (run / "trained").touch()
        return run

    def train_all(self, runs: dict[str, tuple[list[str], dict[str, str]]]) -> dict[str, Path | CommandError]:
        """Train several small runs, some at a time: name → overrides and environment."""
        self.data()

        def one(name: str) -> Path | CommandError:
            overrides, env = runs[name]
            try:
                return self.train(name, *overrides, env=env)
            except CommandError as error:
                return error

        with ThreadPoolExecutor(max(1, min(6, self.cores // 2))) as pool:
            return dict(zip(runs, pool.map(one, runs), strict=True))


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of what a command printed."""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1][:200] if lines else f"code {done.returncode}"


def values(run: Path, tag: str) -> list[float]:
    """Return the values of a tag in metrics.jsonl."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line[tag] for line in lines if tag in line]


def difference(run: Path | CommandError, other: Path | CommandError) -> tuple[float, str]:
    """Return the largest relative difference of two runs' losses, and why it is NaN if it is."""
    for each in (run, other):
        if isinstance(each, CommandError):
            return math.nan, str(each)
    ours, theirs = values(run, "train/loss"), values(other, "train/loss")
    if len(ours) != len(theirs) or not ours:
        return math.nan, f"{len(ours)} and {len(theirs)} steps"
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)), f"{len(ours)} steps"


def first_steps(stage: Stage) -> None:
    """Go from text to generated text without a compiler, as a new user would."""
    import platform

    import deepspeed
    import torch
    import transformers

    facts = {"python": platform.python_version(), "torch": torch.__version__}
    facts |= {"deepspeed": deepspeed.__version__, "transformers": transformers.__version__, "cores": stage.cores}
    facts["gpu"] = torch.cuda.get_device_name() if stage.gpu else "none"
    (stage.home / "facts.json").write_text(json.dumps(facts))
    env, calls = without_compilers(stage.home)
    data = stage.home / "first-steps-data"
    stage.make_data(data, env)
    if not stage.given_data:
        data.rename(stage.home / "data")
    path = stage.configuration("first-steps", 4)
    run = path.with_suffix("")
    for words in (
        ("validate", path),
        ("train", path),
        ("evaluate", run, "--data", stage.data(), "--output", stage.home / "evaluation.json"),
        ("generate", run, "--prompt", "def ", "--max-new-tokens", 8),
        ("export", run, "--output", stage.home / "exported"),
    ):
        done = stage.try_call(*words, env=env)
        stage.check(f"gpt2dist {words[0]}: exit code", done.returncode, "==", 0, last_words(done))
    started = calls.read_text().splitlines() if calls.exists() else []
    stage.check("compilers started", len(started), "==", 0, ", ".join(started))


def without_compilers(home: Path) -> tuple[dict[str, str], Path]:
    """Return an environment whose compilers only record that they were called, and the file of these calls."""
    stubs, calls = home / "stubs", home / "compilers-called"
    stubs.mkdir(exist_ok=True)
    calls.unlink(missing_ok=True)
    for name in WATCHED[1:]:
        (stubs / name).write_text(f'#!/bin/sh\necho {name} >> "{calls}"\nexit 127\n')
        (stubs / name).chmod(0o755)
    path = [each for each in os.environ["PATH"].split(os.pathsep) if not (Path(each) / "nvcc").exists()]
    return {"PATH": os.pathsep.join([str(stubs), *path]), "CUDA_HOME": ""}, calls


def parity(stage: Stage) -> None:
    """Compare losses of the GPU with those of the CPU."""
    if not stage.gpu:
        stage.skip("losses of the GPU against the CPU", NO_GPU)
        return
    precisions = {"fp32": 1e-4, "bf16": 5e-3}
    on_cpu = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(max(1, stage.cores // 3))}
    runs = {f"parity-{precision}-gpu": ([f"precision={precision}"], {}) for precision in precisions}
    runs |= {f"parity-{precision}-cpu": ([f"precision={precision}"], on_cpu) for precision in precisions}
    done = stage.train_all(runs)
    for precision, limit in precisions.items():
        found, note = difference(done[f"parity-{precision}-gpu"], done[f"parity-{precision}-cpu"])
        stage.check(f"{precision}: relative difference of losses", found, "<=", limit, note)


def precisions(stage: Stage) -> None:
    """Compare losses of every ZeRO stage and precision with fp32 without ZeRO."""
    combinations = [("fp32", zero) for zero in range(4)] + [("bf16", zero) for zero in (1, 2, 3)]
    sixteen = [("fp16", zero) for zero in (1, 2, 3)] + [("autocast_bf16", zero) for zero in range(4)]
    if stage.gpu:
        combinations += sixteen
    runs = {
        f"{precision}-stage-{zero}": ([f"precision={precision}", f"zero.stage={zero}"], {})
        for precision, zero in combinations
    }
    done = stage.train_all(runs)
    limits = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2, "autocast_bf16": 2e-2}
    for precision, zero in combinations[1:]:
        name = f"{precision}-stage-{zero}"
        found, note = difference(done[name], done["fp32-stage-0"])
        stage.check(
            f"{precision}, stage {zero}: relative difference from fp32", found, "<=", limits[precision], note
        )
    for precision, zero in [] if stage.gpu else sixteen:
        stage.skip(f"{precision}, stage {zero}: relative difference from fp32", NO_GPU)


def offload(stage: Stage) -> None:
    """Compare losses and memory with the optimizer, and the weights, in host memory."""
    if not stage.gpu:
        stage.skip("offload to host memory", NO_GPU)
        return
    optimizer, both = (
        ["zero.offload_optimizer=cpu"],
        ["zero.offload_optimizer=cpu", "zero.offload_parameters=cpu"],
    )
    cases = {"1": (1, optimizer), "2": (2, optimizer), "3": (3, optimizer), "3, weights too": (3, both)}
    plain = {f"plain-{zero}": (["precision=bf16", f"zero.stage={zero}"], {}) for zero in (1, 2, 3)}
    runs = {
        f"offload-{number}": (["precision=bf16", f"zero.stage={zero}", *words], {})
        for number, (zero, words) in enumerate(cases.values())
    }
    done = stage.train_all(plain | runs)
    for number, (case, (zero, _)) in enumerate(cases.items()):
        run, without = done[f"offload-{number}"], done[f"plain-{zero}"]
        found, note = difference(run, without)
        stage.check(f"stage {case}: relative difference of losses", found, "<=", 5e-3, note)
        if math.isfinite(found):
            ratio = values(run, "memory/peak_gib")[-1] / values(without, "memory/peak_gib")[-1]
            stage.check(f"stage {case}: peak memory of the GPU / without offload", ratio, "<=", 0.95)


def memory(stage: Stage) -> None:
    """Compare the preflight's estimate of memory with the peak."""
    if not stage.gpu:
        stage.skip("estimate / peak memory", NO_GPU)
        return
    from gpt2dist.preflight import resolve
    from gpt2dist.preflight.memory import estimate, memory_inputs, total

    for zero, precision in ((0, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")):
        name, words = (
            f"memory-{zero}",
            [f"zero.stage={zero}", f"precision={precision}", "evaluation.batch_size=2"],
        )
        words.append("batch.micro_batch_size=8")
        try:
            run = stage.train(name, *words, steps=3, model={"preset": "gpt2-124m"}, length=1024)
        except CommandError as error:
            stage.check(f"stage {zero}, {precision}: estimate / peak", math.nan, ">=", 0.9, str(error))
            continue
        config, plan = resolve(run.with_suffix(".yaml"), words, 1)
        expected = total(estimate(memory_inputs(config, plan))) / 2**30
        peak = max(values(run, "memory/peak_gib"))
        note = f"{expected:.2f} GiB estimated, {peak:.2f} GiB at the peak"
        stage.check(f"stage {zero}, {precision}: estimate / peak", expected / peak, ">=", 0.9, note)
        stage.check(f"stage {zero}, {precision}: estimate / peak", expected / peak, "<=", 1.25, note)


def resume(stage: Stage) -> None:
    """Compare a resumed run with an uninterrupted one, with and without deterministic algorithms."""
    from gpt2dist.config.schema import RunSection

    path = stage.configuration("resume", 20)
    precision = ["precision=bf16"] if stage.gpu else []
    if "deterministic" in RunSection.model_fields:
        done = stage.try_call("verify-resume", path, *precision, "run.deterministic=true")
        stage.check("deterministic: exit code of verify-resume", done.returncode, "==", 0, last_words(done))
    else:
        stage.skip("deterministic: exit code of verify-resume", "this version has no run.deterministic")
    done = stage.try_call("verify-resume", path, *precision)
    told = (
        "is not deterministic on" in done.stderr
    )  # a GPU that does not repeat its results is named as the cause
    stage.check(
        "equal, or told apart from the device's own noise", not done.returncode or told, "==", 1, last_words(done)
    )


def evaluate(stage: Stage) -> None:
    """Evaluate one model twice."""
    run, results = stage.base_run(), []
    for number in (1, 2):
        path = stage.home / f"evaluation-{number}.json"
        stage.call("evaluate", run, "--data", stage.data(), "--output", path)
        results.append(json.loads(path.read_text()))
    keys = ("nll_sum", "perplexity", "bits_per_byte", "targets")
    pairs = [(results[0].get(key), results[1].get(key)) for key in keys]
    found = max(abs(a - b) for a, b in pairs if a is not None)
    stage.check("difference of two evaluations", found, "==", 0, f"perplexity {results[0]['perplexity']:.4f}")


def generate(stage: Stage) -> None:
    """Generate greedy text twice, and continue prompts of unequal length with a repetition penalty."""
    run = stage.base_run()
    greedy = ["generate", run, "--prompt", "def main", "--max-new-tokens", 20, "--temperature", 0]
    texts = [stage.call(*greedy).stdout for _ in (1, 2)]
    stage.check("greedy text differs in a second try", texts[0] != texts[1], "==", 0)
    unequal = ["--prompt", "a", "--prompt", "def main(self, argument):", "--repetition-penalty", 1.1]
    done = stage.try_call("generate", run, *unequal, "--max-new-tokens", 8, "--seed", 1)
    stage.check(
        "unequal prompts with a repetition penalty: exit code", done.returncode, "==", 0, last_words(done)
    )


def trace(stage: Stage) -> None:
    """Count the kernels of a step, the waits of the host in it, and its documents."""
    run = stage.base_run()
    with gzip.open(next(run.glob("profile/*/*.pt.trace.json.gz"))) as file:
        events = json.load(file)["traceEvents"]
    kinds: dict[str, list[str]] = {}
    for event in events:
        kinds.setdefault(event.get("cat", ""), []).append(event.get("name", ""))
    operations = len(set(kinds.get("cpu_op", [])))
    stage.check("operations named in the trace", operations, ">=", 10)
    if stage.gpu:
        kernels = sorted(set(kinds.get("kernel", [])))
        stage.check("kernels named in the trace", len(kernels), ">=", 10, "; ".join(kernels)[:300])
        attention = [name for name in kernels if re.search("flash|fmha|cudnn.*sdpa", name)]
        stage.check("kernels of fused attention", len(attention), ">=", 1, "; ".join(attention)[:200])
        waits = [
            name for name in kinds.get("cuda_runtime", []) if re.match("cuda(Stream|Device)Synchronize", name)
        ]
        stage.check("waits of the host per step of 4 micro-batches", len(waits) / 2, "<=", 8)
    else:
        for name in ("kernels named in the trace", "kernels of fused attention", "waits of the host per step"):
            stage.skip(name, NO_GPU)
    shown = json.loads(stage.call("trace", run, "--step", 6, "--json").stdout)
    documents = sum(len(window["documents"]) for window in shown["windows"])
    stage.check("documents that gpt2dist trace names for step 6", documents, ">=", 8)


def run(args: argparse.Namespace) -> None:
    """Run the stage that the command line names."""
    import measurements

    stage = Stage(args)
    functions: dict[str, Callable[[Stage], None]] = {
        "first-steps": first_steps,
        "parity": parity,
        "precisions": precisions,
        "offload": offload,
        "memory": memory,
        "resume": resume,
        "evaluate": evaluate,
        "generate": generate,
        "trace": trace,
        "speed": measurements.speed_124m,
        "speed-355m": measurements.speed_355m,
        "speed-774m": measurements.speed_774m,
        "saving": measurements.saving,
        "loss": measurements.loss,
        "isolate": measurements.isolate,
    }
    functions[stage.name](stage)
