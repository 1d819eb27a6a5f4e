"""The table at the end of the quickstart: the model and two compressors on the same held-out text."""

import gzip
import json
import lzma
import os
import statistics
import sys
from pathlib import Path

from gpt2dist.dataset.manifest import Manifest
from gpt2dist.dataset.megatron_format import Shard
from gpt2dist.errors import RunError
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.latest import read_pointer
from gpt2dist.run.metrics_file import stream
from gpt2dist.tokenizer.tokenizer import Tokenizer

RULE = "─" * 100


def table(run: Path, dataset: Path, evaluation: Path, sample: str) -> str:
    """Return the table, with a sample below it.

    Args:
        run: The run directory.
        dataset: The dataset directory, with a split "val".
        evaluation: The result of `gpt2dist evaluate` on that split.
        sample: A text that the model generated.

    Raises:
        RunError: The evaluation was of another text.
    """
    result = json.loads(evaluation.read_text())
    manifest, directory = Manifest.load(dataset), RunDirectory(run)
    text = held_out_text(manifest)
    if len(text) != result["bytes"]:
        raise RunError(f"the held-out text has {len(text)} bytes, {result['bytes']} were evaluated")
    bits = {
        "gpt2dist": result["bits_per_byte"],
        "xz -9": 8 * len(lzma.compress(text, preset=9)) / len(text),
        "gzip -9": 8 * len(gzip.compress(text, 9)) / len(text),
    }
    trained, held_out = manifest.totals("train"), manifest.totals("val")
    rows = {
        "trained on": f"{trained.documents:,} documents, {trained.bytes / 1e6:.1f} MB, {trained.tokens:,} tokens",
        "held out": f"{held_out.documents:,} documents, {len(text) / 1e6:.2f} MB, never trained on",
        "perplexity": f"{result['perplexity']:.2f} per token, {result['word_perplexity']:,.0f} per word",
        "bits per byte": ",  ".join(f"{name} {value:.3f}" for name, value in bits.items()),
        "verdict": verdict(bits),
        "training speed": speed(directory),
        "checkpoint": f"{read_pointer(directory.latest)}  (a Hugging Face model directory)",
        "TensorBoard": f"{program('tensorboard')} --logdir {directory.tensorboard}",
    }
    width = max(map(len, rows))
    lines = [RULE, *(f"{name:>{width}}  {value}" for name, value in rows.items()), RULE]
    shown = sample.rstrip().replace("\n", "\n    ")
    return "\n".join([*lines, "a text that the model made up:\n", f"    {shown}", RULE])


def held_out_text(dataset: Manifest) -> bytes:
    """Return the concatenated validation documents as UTF-8."""
    tokenizer = Tokenizer.load(dataset.directory)
    documents = []
    for record in dataset.shards_of("val"):
        shard = Shard(Path(dataset.directory) / record.name)
        documents += [tokenizer.decode(shard.document(number)[:-1]) for number in range(shard.documents)]
    return "".join(documents).encode()


def speed(run: RunDirectory) -> str:
    """Describe the median speed of the training."""
    key = "throughput/tokens_per_second"
    rates = [
        float(line[key]) for line in stream(run.metrics) if key in line
    ]  # the first of a start may have none
    return f"{statistics.median(rates):,.0f} tokens per second" if rates else "too few steps to measure"


def verdict(bits: dict[str, float]) -> str:
    """Describe which compressors the model beats; fewer bits are better."""
    ours = bits["gpt2dist"]
    beaten = [name for name, value in bits.items() if value > ours]
    lost = [name for name, value in bits.items() if value < ours]
    parts = [f"beats {' and '.join(beaten)}"] if beaten else []
    return "; ".join(parts + ([f"does not beat {' and '.join(lost)}"] if lost else []))


def program(name: str) -> str:
    """Return how to call a program of this environment, which may not be activated."""
    path = Path(sys.executable).parent / name
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
