"""A small corpus and a tokenizer, for the tests of preprocessing."""

import json

import pytest

from gpt2dist.preprocessing import tasks as tasks_module
from gpt2dist.tokenizer.tokenizer import train_bpe


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    train_bpe(["the quick brown fox jumps over the lazy dog " * 5], 280).save(directory)
    return directory


@pytest.fixture
def small_tasks(monkeypatch):
    """Many tasks from a small corpus; reaches tasks planned in this process, which is where they are planned."""
    monkeypatch.setattr(tasks_module, "MIN_TASK_BYTES", 2000)


@pytest.fixture
def corpus(tmp_path):
    directory = tmp_path / "corpus"
    directory.mkdir()
    lines = [json.dumps({"text": f"document {i} é " + "word " * (i % 40)}) for i in range(300)]
    (directory / "a.jsonl").write_text("\n".join(lines) + "\n" + lines[0] + "\n")
    for i in range(20):
        (directory / f"text{i:02d}.txt").write_text(f"A text file, number {i}.\r\n" * (i + 1))
    return directory
