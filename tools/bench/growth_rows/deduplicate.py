"""Deduplication of documents of which half repeat an earlier one, beside the work without it."""

import random
from pathlib import Path

from gpt2dist import preprocessing
from gpt2dist.tokenizer.tokenizer import train_bpe

TITLE = "preprocess and deduplicate, half duplicates"
UNIT = "documents"
SIZES = (20_000, 200_000, 1_000_000)


def prepare(size: int, directory: Path) -> None:
    """Write JSON lines with texts of about 60 bytes, and a tokenizer."""
    train_bpe(["the quick brown fox jumps over the lazy dog " * 5], 280).save(directory / "tokenizer")
    draw = random.Random(0)
    with open(directory / "corpus.jsonl", "w") as file:
        for number in range(size):
            text = number if number % 2 == 0 else 2 * draw.randrange(number // 2 + 1)
            file.write(f'{{"text": "the quick brown fox number {text} jumps over the lazy dog"}}\n')


def measure(size: int, directory: Path) -> dict[str, float]:
    """Preprocess and deduplicate them with one worker."""
    corpus, tokenizer = str(directory / "corpus.jsonl"), str(directory / "tokenizer")
    job = preprocessing.PreprocessingJob((corpus,), tokenizer, directory / "dataset", deduplicate=True)
    return {"documents_kept": preprocessing.prepare(job).totals("train").documents}
