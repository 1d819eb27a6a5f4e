import pytest

from gpt2dist.data.tokenizer import Tokenizer


@pytest.fixture
def save_model(tmp_path, tiny_dataset):
    """Saves a model with its tokenizer, by transformers: `save_model(model)` is its directory."""

    def save(model, name="checkpoint"):
        directory = tmp_path / name
        model.save_pretrained(directory)
        Tokenizer.load(tiny_dataset).save(directory)
        return directory

    return save
