"""Preprocessing of many small files: what it costs to list them, and to remember them."""

import os
from pathlib import Path

from gpt2dist import preprocessing
from gpt2dist.tokenizer.tokenizer import train_bpe

TITLE = "preprocess, small files"
UNIT = "files"
SIZES = (1_000, 10_000, 100_000)
FILES_IN_A_DIRECTORY = 1_000


def prepare(size: int, directory: Path) -> None:
    """Write text files of about 60 bytes, a thousand in a directory, and a tokenizer."""
    train_bpe(["the quick brown fox jumps over the lazy dog " * 5], 280).save(directory / "tokenizer")
    for start in range(0, size, FILES_IN_A_DIRECTORY):
        folder = directory / "corpus" / f"{start // FILES_IN_A_DIRECTORY:05d}"
        folder.mkdir(parents=True)
        for number in range(start, min(start + FILES_IN_A_DIRECTORY, size)):
            (folder / f"{number:07d}.txt").write_text(f"the text of file {number}, the quick brown fox jumps\n")


def measure(size: int, directory: Path) -> dict[str, float]:
    """Preprocess them with one worker, and count the scans of directories and the stats of files."""
    counts = {"scans": 0, "stats": 0}
    scandir, listdir, stat = os.scandir, os.listdir, os.stat
    corpus = str(directory / "corpus")

    def counting(name, function):  # type: ignore[no-untyped-def]
        def call(path=".", *rest, **options):  # type: ignore[no-untyped-def]
            if not isinstance(path, int) and os.fspath(path).startswith(corpus):
                counts[name] += 1
            return function(path, *rest, **options)

        return call

    os.scandir, os.listdir = counting("scans", scandir), counting("scans", listdir)
    os.stat = counting("stats", stat)
    try:
        job = preprocessing.PreprocessingJob((corpus,), str(directory / "tokenizer"), directory / "dataset")
        preprocessing.prepare(job)
    finally:
        os.scandir, os.listdir, os.stat = scandir, listdir, stat
    return {name: float(count) for name, count in counts.items()}
