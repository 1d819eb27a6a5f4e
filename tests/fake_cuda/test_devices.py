"""Which device a process chooses, and what it asks that device about itself."""

import json
import os
import runpy
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from gpt2dist.commands import launch
from gpt2dist.distributed import fabric, world
from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation.model_forward import load_forward
from gpt2dist.generation.continuations import load_generator
from gpt2dist.publishing import exporter
from gpt2dist.quickstart.pipeline import print_devices
from gpt2dist.run import environment
from tests.support import REPOSITORY
from tests.support.fake_cuda import CUDA, mock_driver

CPU = torch.device("cpu")
TOKENIZER = SimpleNamespace(vocab_size=100, end_of_text_id=99)


@pytest.mark.parametrize(("gpus", "device", "backend"), [(0, "cpu", "gloo"), (4, "cuda:2", "cpu:gloo,cuda:nccl")])
def test_a_rank_takes_the_gpu_of_its_local_rank(monkeypatch, gpus, device, backend):
    """The GPU is chosen before NCCL starts, which would otherwise use the first one on every rank."""
    calls = []
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: calls.append(backend))
    with mock_driver(calls, is_available=gpus > 0, device_count=gpus, set_device=None):
        joined = world.join()
    assert joined.device == torch.device(device)
    changes = [call for call in calls if not call.startswith(("is_available", "device_count"))]
    assert changes == [*["set_device(cuda:2)"] * (gpus > 0), backend]


def test_the_memory_of_a_rank_is_that_of_its_gpu():
    calls = []
    with mock_driver(calls, get_device_properties=SimpleNamespace(total_memory=80 * 2**30)):
        assert World(0, 0, 1, CUDA).device_bytes == 80 * 2**30
        assert World(0, 0, 1, CPU).device_bytes is None
    assert calls == ["get_device_properties(cuda:0)"]


@pytest.mark.parametrize("gpu", [True, False])
def test_the_environment_of_a_run_names_the_gpu(gpu):
    with mock_driver([], is_available=gpu, get_device_name="NVIDIA L4"):
        assert environment.describe()["gpu"] == ("NVIDIA L4" if gpu else None)


def test_the_fabric_check_gives_a_gpu_more_to_do_and_compares_its_versions(monkeypatch, tmp_path):
    assert fabric.load_of(CUDA).message > fabric.load_of(CPU).message
    assert fabric.load_of(CUDA).dtype == torch.float16
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC 12\n"
    opened = text.replace("x86_64 Kernel Module", "Open Kernel Module for x86_64")
    monkeypatch.setattr(fabric, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 5))
    with mock_driver([], is_available=True, get_device_name="NVIDIA L4"):
        found = {"torch": torch.__version__, "GPU": "NVIDIA L4", "NCCL": "2.27.5"}
        assert fabric.versions() == found  # in a container without /proc/driver
        for content, driver in ((text, "535.104.05"), (opened, "535.104.05"), ("other", "unknown")):
            (tmp_path / "version").write_text(content)
            assert fabric.versions() == found | {"driver": driver}
    with mock_driver([], is_available=False):
        assert fabric.versions() == {"torch": torch.__version__}


def test_launch_starts_a_rank_per_gpu():
    with mock_driver([], device_count=3):
        assert launch._gpus() == 3


@pytest.mark.parametrize(("gpus", "bf16"), [(0, False), (2, False), (2, True)])
def test_the_quickstart_counts_gpus_and_asks_one_for_bf16(gpus, bf16, capsys):
    calls = []
    with mock_driver(calls, device_count=gpus, is_bf16_supported=bf16):
        print_devices()
    assert json.loads(capsys.readouterr().out) == [gpus, bf16]
    assert len(calls) == 1 + (gpus > 0), "without a GPU there is no driver to ask"


@pytest.mark.parametrize(("gpu", "accelerator"), [(True, None), (False, "cpu")])
def test_deepspeed_finds_the_gpu_by_itself(monkeypatch, gpu, accelerator):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    names = ("deepspeed", "deepspeed.accelerator", "deepspeed.runtime", "deepspeed.utils")
    names += ("deepspeed.accelerator.cuda_accelerator",)
    stubs = mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in names})
    with mock.patch.dict("os.environ"), stubs, mock_driver([], is_available=gpu):
        runpy.run_path(str(REPOSITORY / "gpt2dist/distributed/deepspeed_import.py"))
        assert os.environ.get("DS_ACCELERATOR") == accelerator


@pytest.mark.parametrize(("device", "converted"), [(CUDA, False), (CPU, True)])
def test_only_a_cpu_evaluates_with_onednn(monkeypatch, tmp_path, device, converted):
    calls, model = [], SimpleNamespace(config=SimpleNamespace(n_positions=40))
    monkeypatch.setattr("gpt2dist.model.pretrained.load_pretrained", lambda *_: model)
    monkeypatch.setattr("gpt2dist.model.pretrained.require_vocabulary", lambda *args: None)
    monkeypatch.setattr("gpt2dist.evaluation.model_forward.require_whole_model", lambda *_, **__: None)
    monkeypatch.setattr("gpt2dist.model.onednn.use_onednn", calls.append)
    with mock_driver([], get_device_name="NVIDIA L4"):
        load_forward(tmp_path, TOKENIZER, None, 0, World(0, 0, 1, device))
    assert calls == [model] * converted


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_texts_are_generated_on_the_gpu(monkeypatch, tmp_path, gpu, device):
    model = SimpleNamespace(config=SimpleNamespace(n_positions=40))
    given = []
    monkeypatch.setattr("gpt2dist.model.pretrained.load_pretrained", lambda *args: given.append(args) or model)
    monkeypatch.setattr("gpt2dist.model.pretrained.require_vocabulary", lambda *args: None)
    with mock_driver([], is_available=gpu):
        generator = load_generator(tmp_path, TOKENIZER)
    assert given == [(tmp_path, torch.device(device))] and generator.device == torch.device(device)


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_an_export_is_compared_on_the_gpu(monkeypatch, tmp_path, gpu, device):
    def load(path, device):
        raise UserError(f"loaded onto {device}")

    monkeypatch.setattr(exporter.Tokenizer, "load", lambda path: TOKENIZER)
    monkeypatch.setattr(exporter, "load_pretrained", load)
    with mock_driver([], is_available=gpu), pytest.raises(UserError, match=f"loaded onto {device}$"):
        exporter.export(tmp_path, tmp_path / "out", "float32", lambda exported: "")
