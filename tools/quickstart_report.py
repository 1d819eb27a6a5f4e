"""Print the table at the end of the quickstart: the model and two compressors on the same held-out text.

python tools/quickstart_report.py RUN DATASET EVALUATION.json SAMPLE.txt
"""

import gzip
import json
import lzma
import sys
from pathlib import Path

import numpy as np

from gpt2dist.dataset.manifest import Manifest
from gpt2dist.dataset.megatron_format import Shard
from gpt2dist.run.metrics_file import read
from gpt2dist.tokenizer.tokenizer import Tokenizer


def held_out_text(dataset: Manifest) -> bytes:
    """Return the concatenated validation documents as UTF-8."""
    tokenizer = Tokenizer.load(dataset.directory)
    documents = []
    for record in dataset.shards_of("val"):
        shard = Shard(Path(dataset.directory) / record.name)
        documents += [tokenizer.decode(shard.document(number)[:-1]) for number in range(shard.documents)]
    return "".join(documents).encode()


def main() -> None:
    """Print the table."""
    run, dataset, evaluation, sample = (Path(argument) for argument in sys.argv[1:])
    result = json.loads(evaluation.read_text())
    manifest = Manifest.load(dataset)
    text = held_out_text(manifest)
    if len(text) != result["bytes"]:
        raise SystemExit(f"the held-out text has {len(text)} bytes, {result['bytes']} were evaluated")
    bits = {
        "gpt2dist": result["bits_per_byte"],
        "xz -9": 8 * len(lzma.compress(text, preset=9)) / len(text),
        "gzip -9": 8 * len(gzip.compress(text, 9)) / len(text),
    }
    rates = [
        float(line["throughput/tokens_per_second"])
        for line in read(run / "metrics.jsonl")
        if "throughput/tokens_per_second" in line  # the first line of a start may have none
    ]
    checkpoint = run / "checkpoints" / (run / "checkpoints/latest").read_text().strip()
    trained = manifest.totals("train")
    rows = [
        (
            "trained on",
            f"{trained.documents:,} documents, {trained.bytes / 1e6:.1f} MB, {trained.tokens:,} tokens",
        ),
        (
            "held out",
            f"{manifest.totals('val').documents:,} documents, {len(text) / 1e6:.2f} MB, never trained on",
        ),
        ("perplexity", f"{result['perplexity']:.2f} per token, {result['word_perplexity']:,.0f} per word"),
        ("bits per byte", ",  ".join(f"{name} {value:.3f}" for name, value in bits.items())),
        ("verdict", verdict(bits)),
        ("training speed", f"{np.median(rates):,.0f} tokens per second"),
        ("checkpoint", f"{checkpoint}  (a Hugging Face model directory)"),
        ("TensorBoard", f".venv/bin/tensorboard --logdir {run}/tensorboard"),
    ]
    width = max(len(name) for name, _ in rows)
    rule = "─" * 100
    print(rule)
    for name, value in rows:
        print(f"{name:>{width}}  {value}")
    print(rule)
    print("a text that the model made up:\n")
    print("    " + sample.read_text(encoding="utf-8").rstrip().replace("\n", "\n    "))
    print(rule)


def verdict(bits: dict[str, float]) -> str:
    """Describe which compressors the model beats; fewer bits are better."""
    ours = bits["gpt2dist"]
    beaten = [name for name, value in bits.items() if value > ours]
    lost = [name for name, value in bits.items() if value < ours]
    parts = [f"beats {' and '.join(beaten)}"] if beaten else []
    return "; ".join(parts + ([f"does not beat {' and '.join(lost)}"] if lost else []))


if __name__ == "__main__":
    main()
