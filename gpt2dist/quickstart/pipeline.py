"""The pipeline of `gpt2dist quickstart`: corpus → tokenizer → shards → training → perplexity → text.

Each step is a command that you can also run by hand, in its own process. A second run does only what is missing.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType

from gpt2dist.config import presets
from gpt2dist.quickstart.corpus import make_corpus
from gpt2dist.quickstart.report import table

CPU_FLAGS, BF16_FLAGS = Path("/proc/cpuinfo"), ("avx512_bf16", "amx_bf16")
SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that are passed on to the running step. A terminal sends Ctrl-C to all processes by itself."""
PROBE = "from gpt2dist.quickstart.pipeline import print_devices; print_devices()"


class StepFailedError(Exception):
    """A step of the pipeline failed; its own messages say why.

    Attributes:
        code: The exit code to end with.
    """

    def __init__(self, code: int):
        super().__init__(f"exit code {code}")
        self.code = code


@dataclass(frozen=True)
class Quickstart:
    """Settings of a quickstart, and its steps. Paths are relative to the working directory.

    Attributes:
        inputs: Files, directories and globs with text; empty for the standard library of this Python.
        prompt: The start of the sample.
        steps: Optimizer steps; None for those of configs/quickstart.yaml.
        quiet: Whether the steps show only results, warnings and errors.
        on_heading: Called with the title of each step.
        on_info: Called with a line about the corpus.
    """

    inputs: tuple[str, ...] = ()
    prompt: str = "def main("
    steps: int | None = None
    quiet: bool = False
    on_heading: Callable[[str], None] = lambda title: None
    on_info: Callable[[str], None] = lambda text: None

    @property
    def name(self) -> str:
        """The name of the data and the run. Each set of inputs has its own, so that none overwrites another."""
        return f"quickstart-{zlib.crc32(os.fsencode(chr(10).join(self.inputs)))}" if self.inputs else "quickstart"

    @property
    def corpus(self) -> Path:
        """The corpus, one file of JSON lines."""
        return self.dataset.with_name(f"{self.name}.jsonl")

    @property
    def dataset(self) -> Path:
        """The dataset directory."""
        return Path("data", self.name)

    @property
    def run_directory(self) -> Path:
        """The run directory."""
        return Path("runs", self.name)

    @cached_property
    def devices(self) -> tuple[int, str]:
        """The number of processes and the precision for the device of this host."""
        gpus, gpus_have_bf16 = json.loads(_output([sys.executable, "-c", PROBE]))
        if gpus:
            return gpus, "bf16" if gpus_have_bf16 else "fp32"
        return 2, "autocast_bf16" if cpu_has_bf16() else "fp32"  # two processes share the cores

    def run(self) -> str:
        """Do what is missing, and return the final table.

        Raises:
            StepFailedError: A step failed or was ended by a signal.
            UserError: An input does not exist, or a file cannot be created.
        """
        tokenizer, evaluation = f"{self.dataset}-tokenizer", self.run_directory / "evaluation.json"
        self.on_heading("1/6 corpus")
        self.on_info(make_corpus(self.corpus, self.inputs))
        self.on_heading("2/6 tokenizer: byte-level BPE")
        self._do("tokenizer", "train", self.corpus, "--vocab-size", 2048, "--output", tokenizer)
        self.on_heading("3/6 token shards, 5 % of the documents held out")
        shards = ["--tokenizer", tokenizer, "--val-fraction", 0.05, "--output", self.dataset]
        self._do("preprocess", self.corpus, *shards)
        processes, _ = self.devices
        self.on_heading(f"4/6 training on {processes} processes with ZeRO")
        self._launch("train", presets.path_of("quickstart"), *self.overrides())
        self.on_heading(f"5/6 perplexity of the held-out documents, on {processes} processes")
        scoring = ["--data", self.dataset, "--prefix", "end-of-text", "--output", evaluation]
        self._launch("evaluate", self.run_directory, *scoring)
        self.on_heading("6/6 a sample")
        sampling = ["--max-new-tokens", 120, "--temperature", 0.8, "--repetition-penalty", 1.1, "--seed", 1]
        sample = self._do("generate", self.run_directory, "--prompt", self.prompt, *sampling)
        (self.run_directory / "sample.txt").write_text(sample, encoding="utf-8")
        self.on_heading("Done")
        return table(self.run_directory, self.dataset, evaluation, sample)

    def overrides(self) -> list[str]:
        """Return the overrides of configs/quickstart.yaml."""
        processes, precision = self.devices
        overrides = [
            *(f"run.name={self.name}", f"run.output_dir={self.run_directory}", f"precision={precision}"),
            f"data.train=[{{path: {self.dataset}}}]",
            f"data.validation=[{{name: held-out, path: {self.dataset}}}]",
            f"batch.global_batch_size={4 * processes}",
        ]
        if self.steps is not None:
            overrides += [f"schedule.total_steps={self.steps}", f"schedule.warmup_steps={self.steps // 20}"]
            overrides += [f"monitoring.log_every_steps={max(1, min(20, self.steps // 4))}"]
        return overrides

    def _launch(self, *words: object) -> None:
        self._do("launch", "--nproc-per-node", self.devices[0], *words)

    def _do(self, *words: object) -> str:
        """Run one of our verbs, and return the standard output of `generate`; others print to the terminal."""
        self.on_info(f"gpt2dist {shlex.join(map(str, words))}")
        quiet = ["--quiet"] if self.quiet else []
        command = [sys.executable, "-m", "gpt2dist", *map(str, words), *quiet]
        return _output(command, captures=words[0] == "generate")


def _output(command: Sequence[str], captures: bool = True) -> str:
    """Run a command and return its standard output if it is captured.

    Raises:
        StepFailedError: The command failed, or a signal arrived in the meantime.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE if captures else None, encoding="utf-8") as process:
        with _passing_on(process) as received:
            output, _ = process.communicate()
        code = process.returncode
    if received:  # a run that saved and stopped ends with 0
        raise StepFailedError(128 + received[0])
    if code:
        raise StepFailedError(code if code > 0 else 128 - code)
    return output or ""


@contextmanager
def _passing_on(process: "subprocess.Popen[str]") -> Iterator[list[int]]:
    """Pass signals on to a process while it runs, and yield the list of those that arrived."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number != signal.SIGINT:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, *SIGNALS)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cpu_has_bf16() -> bool:
    """Return whether the CPU multiplies matrices in bf16."""
    try:
        flags = CPU_FLAGS.read_text()
    except OSError:
        return False
    return any(flag in flags for flag in BF16_FLAGS)


def print_devices() -> None:
    """Print the number of GPUs and whether they compute in bf16, as JSON.

    This runs in a process of its own: the question takes memory of a GPU until the process ends.
    """
    import torch

    from gpt2dist.distributed.gpu import supports_bf16
    from gpt2dist.terminal import say

    gpus = torch.cuda.device_count()
    say(json.dumps([gpus, gpus > 0 and supports_bf16()]), sys.stdout)
