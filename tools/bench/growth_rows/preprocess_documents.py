"""Preprocessing of many tiny documents in one file."""

import random
from pathlib import Path

from gpt2dist import preprocessing
from gpt2dist.tokenizer.tokenizer import train_bpe

TITLE = "preprocess, documents of 10 bytes"
UNIT = "documents"
SIZES = (50_000, 500_000, 5_000_000)


def prepare(size: int, directory: Path) -> None:
    """Write JSON lines with random texts of ten digits, and a tokenizer."""
    train_bpe(["0123456789 " * 50], 270).save(directory / "tokenizer")
    draw = random.Random(0)
    with open(directory / "corpus.jsonl", "w") as file:
        for _ in range(size):
            file.write(f'{{"text": "{draw.randrange(10**9, 10**10)}"}}\n')


def measure(size: int, directory: Path) -> dict[str, float]:
    """Preprocess them with one worker."""
    corpus, tokenizer = str(directory / "corpus.jsonl"), str(directory / "tokenizer")
    preprocessing.prepare(preprocessing.PreprocessingJob((corpus,), tokenizer, directory / "dataset"))
    return {}
