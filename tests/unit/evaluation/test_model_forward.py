from pathlib import Path

import pytest
import torch

from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation import model_forward
from gpt2dist.evaluation.model_forward import load_forward, require_dtype, require_dtype_of_host
from gpt2dist.model import pretrained
from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support.small_models import make_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def gpu(monkeypatch):
    """Gives the GPU a name and a compute capability."""

    def call(name, capability):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        # Emulation makes every GPU support bf16.
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True: including_emulation or capability >= (8, 0),
        )

    return call


def test_a_rank_of_another_host_takes_the_commit_that_rank_0_found(monkeypatch, tmp_path):
    def located(model, of_main):
        monkeypatch.setattr(model_forward, "on_each_host", lambda world, work: of_main)
        return model_forward.locate_together(model, World(1, 0, 2, CPU))

    monkeypatch.setattr(model_forward, "locate", lambda name: tmp_path / name)
    of_main = Path("/elsewhere/models--me--small/snapshots/0123abc")
    assert located("me/small@main", of_main) == tmp_path / "me/small@0123abc"
    assert located("run", Path("/elsewhere/run")) == tmp_path / "run"
    assert located("run", tmp_path) == tmp_path


def test_dtypes_that_a_device_has(gpu):
    for name, capability in (("NVIDIA A100", (8, 0)), ("NVIDIA H100", (9, 0))):
        gpu(name, capability)
        for dtype in ("fp32", "bf16", "tf32"):
            require_dtype(dtype, CUDA)
    for dtype in ("fp32", "bf16"):
        require_dtype(dtype, CPU)
        require_dtype_of_host(dtype)


@pytest.mark.parametrize(
    ("dtype", "device", "message"),
    [
        ("tf32", CPU, "dtype tf32 needs an NVIDIA GPU of the Ampere generation or newer, not a CPU; give fp32"),
        (
            "tf32",
            CUDA,
            "dtype tf32 needs an NVIDIA GPU of the Ampere generation or newer, not Tesla V100; give fp32",
        ),
        ("bf16", CUDA, "dtype bf16: Tesla V100 has no bf16; give fp32"),
        ("fp16", CPU, "dtype 'fp16' is not one of fp32, bf16, tf32"),
    ],
)
def test_a_dtype_that_a_device_lacks(gpu, dtype, device, message):
    gpu("Tesla V100", (7, 0))
    with pytest.raises(UserError, match=message):
        require_dtype(dtype, device)


def test_the_host_decides_only_without_a_gpu(monkeypatch):
    with pytest.raises(UserError, match="not a CPU"):
        require_dtype_of_host("tf32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    require_dtype_of_host("tf32")  # its rank may have another GPU than the first


@pytest.mark.parametrize(
    ("dtype", "products", "weights"),
    [("fp32", "highest", torch.float32), ("tf32", "high", torch.float32), ("bf16", "highest", torch.bfloat16)],
)
def test_how_the_model_computes(tiny_dataset, tmp_path, monkeypatch, dtype, products, weights):
    make_model(n_layer=1).save_pretrained(tmp_path)
    seen, set_products = [], model_forward.fp32_products

    def score(model, *inputs):
        seen.append((torch.get_float32_matmul_precision(), model.transformer.wte.weight.dtype))

    # A CPU that is taken for a GPU.
    monkeypatch.setattr(model_forward, "require_dtype", lambda dtype, device: None)
    monkeypatch.setattr(model_forward, "fp32_products", lambda tf32, device: set_products(tf32, CUDA))
    monkeypatch.setattr(pretrained, "score", score)
    forward = load_forward(tmp_path, Tokenizer.load(tiny_dataset), None, 0, World(0, 0, 1, CPU), dtype)
    assert torch.get_float32_matmul_precision() == "highest"
    forward(torch.zeros(1, 4), torch.zeros(1), torch.ones(1))
    assert seen == [(products, weights)]
    assert torch.get_float32_matmul_precision() == "highest"
