"""A model goes on with other text: configs/finetune-gpt2.yaml, from a run to a pipeline."""

import json
import math
import random

import pytest
import torch

from gpt2dist.preprocessing import PreprocessingJob, prepare
from gpt2dist.status.status import read_status
from gpt2dist.tokenizer.tokenizer import Tokenizer, train_bpe
from tests.support.ranks import run_ranks
from tests.support.runs import metrics, train, write_run

STEPS = 120


@pytest.fixture(scope="module")
def texts():
    """Words at random, and short texts in which each word is followed by one of two."""
    draw = random.Random(2)
    words = ["".join(draw.choices("abcdefghijkl", k=draw.randint(3, 7))) for _ in range(24)]
    following = {word: draw.sample(words, 2) for word in words}

    def chain(length):
        found = [draw.choice(words)]
        while len(found) < length:
            found.append(draw.choice(following[found[-1]]))
        return " ".join(found)

    general = [" ".join(draw.choices(words, k=draw.randint(10, 40))) for _ in range(400)]
    special = [chain(draw.randint(3, 8)) for _ in range(600)]
    return general, special


@pytest.fixture(scope="module")
def home(texts, tmp_path_factory):
    """Datasets of both kinds under one tokenizer, and a run on the first."""
    home = tmp_path_factory.mktemp("finetuning")
    train_bpe([text for kind in texts for text in kind], 320).save(home / "tokenizer")
    for name, kind in zip(("general", "special"), texts, strict=True):
        (home / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in kind))
        prepare(
            PreprocessingJob(
                (str(home / f"{name}.jsonl"),), str(home / "tokenizer"), home / name, val_fraction=0.2
            )
        )
    train(write_run(home, home / "general"), "schedule.total_steps=250", "optimizer.lr=5e-3", "run.name=base")
    return home


def overrides(home, repository, output):
    """What a tiny model on tiny texts needs otherwise."""
    return [
        f"run.output_dir={output}",
        f"data.train.0.path={home / 'special'}",
        f"data.validation.0.path={home / 'special'}",
        *("data.sequence_length=32", "data.stride=24", "evaluation.stride=16", "evaluation.every_steps=20"),
        *("schedule.total_tokens=", f"schedule.total_steps={STEPS}", "schedule.warmup_steps=4"),
        *("optimizer.lr=4e-3", "precision=fp32", "model.dropout=0"),
    ]


def perplexity_here(directory, texts, tokenizer):
    """Of each text by itself behind end-of-text, by transformers alone."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = Tokenizer.load(tokenizer)
    nll, targets = 0.0, 0
    for text in texts:
        tokens = torch.tensor([tokenizer.end_of_text_id, *tokenizer.encode(text).tolist()])
        with torch.no_grad():
            loss = model(tokens[None, :32], labels=tokens[None, :32]).loss
        count = min(len(tokens), 32) - 1
        nll, targets = nll + loss.item() * count, targets + count
    return math.exp(nll / targets)


def export_here(run, output):
    from gpt2dist.cli import main

    return main(["export", str(run), "--output", str(output)])


def generate_here(directory, prompt):
    from transformers import pipeline

    generator = pipeline("text-generation", model=str(directory))
    return generator(prompt, do_sample=False, min_new_tokens=20, max_new_tokens=25)[0]["generated_text"]


def test_finetuning_beats_the_model_before_and_one_from_scratch(home, texts, repository, tmp_path):
    recipe = repository / "configs" / "finetune-gpt2.yaml"
    common = overrides(home, repository, tmp_path / "tuned")
    tuned = train(recipe, *common, f"model.init_from={home / 'run'}")
    sizes = "model={n_layer: 2, n_head: 4, n_embd: 32, context_length: 32}"
    scratch = train(recipe, *overrides(home, repository, tmp_path / "scratch"), sizes)
    status = read_status(tuned)
    assert status.state == "finished" and status.best.step <= status.step
    losses = metrics(tuned, "eval/held-out/loss")
    assert status.best.value == min(losses)
    assert run_ranks(export_here, 1, tuned / "checkpoints/best", tmp_path / "model") == [0]

    held_out = held_out_texts(home, texts[1])
    before, after, fresh = (
        run_ranks(perplexity_here, 1, directory, held_out, home / "tokenizer")[0]
        for directory in (newest(home / "run"), tmp_path / "model", newest(scratch))
    )
    assert after < 0.5 * before
    assert after < 0.8 * fresh

    card = (tmp_path / "model/README.md").read_text()
    assert "| chosen as | the best checkpoint of the run by eval/held-out/loss |" in card

    # The run's own validation says the same, but for the texts that a window's end cuts off.
    said = json.loads((tuned / f"eval/step-{status.best.step:08d}.json").read_text())["held-out"]["perplexity"]
    assert said == pytest.approx(after, rel=0.25)

    # It has learnt what follows what: most pairs of words in a text that it goes on with are in the texts.
    pairs = {pair for text in texts[1] for pair in zip(text.split(), text.split()[1:], strict=False)}
    (text,) = run_ranks(generate_here, 1, tmp_path / "model", texts[1][0].split()[0])
    made = list(zip(text.split(), text.split()[1:], strict=False))
    assert sum(pair in pairs for pair in made) > len(made) / 2


def newest(run):
    return run / "checkpoints" / (run / "checkpoints/latest").read_text().strip()


def held_out_texts(home, texts):
    """The texts in the validation split."""
    import numpy as np

    tokenizer = Tokenizer.load(home / "tokenizer")
    tokens = np.fromfile(home / "special/val-00000.bin", np.uint16)
    ends = np.flatnonzero(tokens == tokenizer.end_of_text_id)
    found = [tokenizer.decode(part[1:] if number else part) for number, part in enumerate(np.split(tokens, ends))]
    held_out = [text for text in found if text]
    assert len(held_out) > 60 and set(held_out) <= set(texts)
    return held_out
