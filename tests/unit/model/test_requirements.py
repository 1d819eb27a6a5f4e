import importlib.metadata

import pytest
import torch

from gpt2dist.errors import UserError
from gpt2dist.model.requirements import require_compiler, require_flash_attention, require_varlen

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_compiler_that_is_there(monkeypatch, tmp_path):
    compiler = tmp_path / "my++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    require_compiler(CPU)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    require_compiler(CUDA)


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        (None, r"model\.compile: needs a C\+\+ compiler \(.*\+\+ is not on PATH and CXX is not set\); install"),
        ("no++", r"model\.compile: needs a C\+\+ compiler \(CXX is no\+\+\); install one, or set model\.compile"),
    ],
)
def test_no_compiler(monkeypatch, compiler, message):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    if compiler:
        monkeypatch.setenv("CXX", compiler)
    with pytest.raises(UserError, match=message):
        require_compiler(CPU)


def test_a_gpu_without_triton(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"model\.compile: needs the triton package; install it, or set"):
        require_compiler(CUDA)


def test_varlen_needs_a_gpu_of_ampere_or_newer_and_a_torch_with_flash_attention(monkeypatch):
    with pytest.raises(UserError, match=r"varlen needs a CUDA GPU, not cpu; set model\.attention to sdpa"):
        require_varlen(CPU)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    with pytest.raises(
        UserError, match=r"varlen needs a torch with flash attention, which this is not; set model"
    ):
        require_varlen(CUDA)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    message = r"compute capability 8\.0 \(Ampere\) or above, this one has 7\.5; set model\.attention to sdpa"
    with pytest.raises(UserError, match=message):
        require_varlen(CUDA)
    for capability in ((8, 0), (9, 0), (12, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        require_varlen(CUDA)


def test_flash_attention_without_a_gpu():
    with pytest.raises(UserError, match=r"flash_attention_2 needs a CUDA GPU, not cpu; set model\.attention to"):
        require_flash_attention(CPU)


def test_flash_attention_with_and_without_its_package(monkeypatch):
    installed = {}

    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    for good in ("2.3.3", "2.10.0.post2"):
        installed["flash_attn"] = good
        require_flash_attention(CUDA)
    installed["flash_attn"] = "2.3.2"
    with pytest.raises(UserError, match="needs the flash-attn package"):
        require_flash_attention(CUDA)
    del installed["flash_attn"]
    with pytest.raises(UserError, match=r"needs the flash-attn package \(2\.3\.3 or newer\); install it, or set"):
        require_flash_attention(CUDA)
    installed["flash_attn"] = "2.3.3"
    with pytest.raises(
        UserError, match=r"package \(2\.4\.1 or newer, for run\.deterministic\); install it, or set"
    ):
        require_flash_attention(CUDA, deterministic=True)
    installed["flash_attn"] = "2.4.1"
    require_flash_attention(CUDA, deterministic=True)
