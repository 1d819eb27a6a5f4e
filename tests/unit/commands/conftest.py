import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.cli import main
from gpt2dist.distributed.world import leave
from gpt2dist.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def small_model(tiny_dataset, tmp_path_factory):
    """A model directory with the tokenizer of the tiny dataset; it guesses better than chance at nothing."""
    directory = tmp_path_factory.mktemp("small") / "model"
    torch.manual_seed(0)
    end = 299
    sizes = {"vocab_size": 300, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, bos_token_id=end, eos_token_id=end, initializer_range=0.2)
    GPT2LMHeadModel(config).save_pretrained(directory)
    Tokenizer.load(tiny_dataset).save(directory)
    return directory


@pytest.fixture
def gpt2dist(capsys):
    """Runs a command here; returns its exit code, standard output and standard error."""

    def call(*words):
        try:
            code = main([str(word) for word in words])
        finally:
            leave()
        return code, *capsys.readouterr()

    return call
