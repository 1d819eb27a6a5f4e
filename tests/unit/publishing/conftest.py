import json
import shutil

import pytest

from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support.runs import train, write_run


@pytest.fixture
def save_model(tmp_path, tiny_dataset):
    """Saves a model with its tokenizer, by transformers: `save_model(model)` is its directory."""

    def save(model, name="checkpoint"):
        directory = tmp_path / name
        model.save_pretrained(directory)
        Tokenizer.load(tiny_dataset).save(directory)
        return directory

    return save


@pytest.fixture(scope="session")
def trained(tiny_dataset, tmp_path_factory):
    """A run of 8 steps with checkpoints and validation at 4 and 8, and a result of `evaluate` at each."""
    home = tmp_path_factory.mktemp("trained")
    every = ["checkpoint.every_steps=4", "evaluation.every_steps=4", "schedule.total_steps=8"]
    run = train(write_run(home, tiny_dataset, validation=True), *every, "run.name=tiny-words")
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run."""
    return shutil.copytree(trained, tmp_path / "runs" / "copy")


@pytest.fixture
def write_result(tmp_path):
    """Writes a result as `gpt2dist evaluate --output` does: `write_result(name, model=fingerprint)`."""

    def write(name, **keys):
        known = {
            "perplexity": 20.5,
            "word_perplexity": 100.25,
            "lm_eval_word_perplexity": 90.5,
            "bits_per_byte": 1.125,
            "data": "d" * 64,
        }
        known |= {"sequence_length": 32, "stride": 16, "prefix": "none", "split": "test", "per_document": True}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(known | keys))
        return path

    return write
