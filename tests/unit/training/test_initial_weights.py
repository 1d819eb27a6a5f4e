import pytest
import torch

from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.training.initial_weights import load_initial_weights
from tests.support.model_files import write_model


def test_weights_that_only_the_training_sees(tmp_path, monkeypatch):
    """The preflight does not download the weights of a model on the hub."""
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: str(model))
    with pytest.raises(UserError, match=rf"^model\.init_from: {model}: its weights are a pickle \(pytorch_model"):
        load_initial_weights("somebody/gpt2", World(0, 0, 1, torch.device("cpu")), None)
