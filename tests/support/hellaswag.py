"""A small file in HellaSwag's format, in our own words, and a model that knows some of its answers."""

import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.tokenizer.tokenizer import Tokenizer, train_bpe
from tests.support import REPOSITORY

QUESTIONS = REPOSITORY / "tests/support/tasks/hellaswag_like.jsonl"
TASK = QUESTIONS.with_suffix(".yaml")
"""The same file as a task of lm-evaluation-harness, relative to the repository."""
CONTEXT = 160
"""Positions of the model: fewer than the tokens of two contexts and of one ending."""


def save_model(directory: Path, updates: int = 20) -> Path:
    """Save a model that was trained for a moment on the right answers of the file."""
    records = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    texts = [f"{each['ctx']} {each['endings'][each['label']]}" for each in records]
    train_bpe(texts, 400).save(directory)
    tokenizer = Tokenizer.load(directory)
    torch.manual_seed(0)
    sizes = {"vocab_size": 400, "n_positions": CONTEXT, "n_embd": 48, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=399, eos_token_id=399, initializer_range=0.1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    rows = [torch.from_numpy(tokenizer.encode(text).astype("int64"))[:CONTEXT] for text in texts]
    for number in range(updates):
        for row in rows[number % 2 :: 2]:
            model(row[None], labels=row[None]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    return directory
