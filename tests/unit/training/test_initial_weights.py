import errno
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.training.initial_weights import load_initial_weights
from tests.support.model_files import write_model


def test_weights_that_only_the_training_sees(tmp_path, monkeypatch):
    """The preflight does not download the weights of a model on the hub."""
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, revision, allow_patterns: str(model))
    with pytest.raises(UserError, match=rf"^model\.init_from: {model}: its weights are a pickle \(pytorch_model"):
        load_initial_weights("somebody/gpt2", World(0, 0, 1, torch.device("cpu")), None)


class Memory:
    """A state of one parameter."""

    def __init__(self):
        self.parameters = {"transformer.ln_f.weight": None}

    def shape_of(self, name):
        return (16,)

    def state_names(self, name):
        return ()

    def restore(self, name, readers):
        readers["param"](0, 16)

    def refresh(self):
        raise AssertionError("nothing wrong was found")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    model = write_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    (name,) = [each for each in weights if each.endswith("ln_f.weight")]
    size = weights[name].numel()
    weights[name][:2] = value
    save_file(weights, model / "model.safetensors")
    with pytest.raises(UserError) as refused:
        load_initial_weights(str(model), World(0, 0, 1, torch.device("cpu")), Memory())
    assert str(refused.value) == (
        f"model.init_from: {model}: 2 of the {size} values of {name} are NaN or infinite, so that no loss would "
        "be finite; name another model"
    )


def test_weights_that_the_disk_does_not_give_back_are_refused(tmp_path, monkeypatch):
    model = write_model(tmp_path / "model")

    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(UserError) as refused:
        load_initial_weights(str(model), World(0, 0, 1, torch.device("cpu")), Memory())
    assert str(refused.value) == (
        f"model.init_from: the weights in {model} cannot be read ([Errno 5] Input/output error: "
        f"'{model}/model.safetensors')"
    )
