import pytest
import torch

from gpt2dist.errors import RunError
from gpt2dist.model import pretrained
from tests.support.model_files import tensors_of, write_model, write_tensors


def test_what_transformers_does_not_find_is_not_random(tmp_path, monkeypatch):
    """Should its names ever differ from those that were checked."""
    model = write_model(tmp_path / "m")
    there = tensors_of(model)
    del there["transformer.ln_f.bias"]
    write_tensors(model / "model.safetensors", there)
    monkeypatch.setattr(pretrained, "weight_files", lambda directory: None)
    with pytest.raises(RunError, match=r"m: transformers does not find transformer\.ln_f\.bias in its files"):
        pretrained.load_pretrained(model, torch.device("cpu"))
