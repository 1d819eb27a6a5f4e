import pytest

from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support.runs import train, write_run
from tests.support.small_models import make_model


@pytest.fixture(scope="session")
def model(tiny_dataset, tmp_path_factory):
    """A model directory with the tokenizer of the tiny dataset."""
    directory = tmp_path_factory.mktemp("api") / "model"
    make_model(n_layer=2).save_pretrained(directory)
    Tokenizer.load(tiny_dataset).save(directory)
    return directory


@pytest.fixture(scope="session")
def run_directory(tiny_dataset, tmp_path_factory):
    """A finished run of four steps, with an evaluation, a sample and two checkpoints."""
    words = ["schedule.total_steps=4", "schedule.warmup_steps=1", "checkpoint.every_steps=2"]
    words += ["monitoring.samples={prompts: [abc], every_steps: 4, max_new_tokens: 3}"]
    return train(write_run(tmp_path_factory.mktemp("api-run"), tiny_dataset, validation=True), *words)
